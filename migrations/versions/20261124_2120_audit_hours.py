"""The audit log by the hour, and the indexes by which it is read: by address, by what came late, by risk."""

import sqlalchemy as sa
from alembic import op

revision = "audit_hours"
down_revision = "audit_alerts"
branch_labels = None
depends_on = None

BY_EMAIL = [sa.text("lower(user_email)"), "created_at", "event_id"]


def upgrade() -> None:
    op.create_table(
        "audit_hours",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "event_type", "category", "success", name=op.f("pk_audit_hours")),
    )
    op.create_table(
        "audit_hours_progress",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("closed_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("late_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("late_id", sa.BigInteger(), nullable=False),
        sa.Column("settled_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mark_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mark_xid", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_hours_progress_only_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_hours_progress")),
    )
    op.create_index(
        op.f("ix_audit_logs_ip_address_created_at"),
        "audit_logs",
        ["ip_address", "created_at"],
        unique=False,
        postgresql_where=sa.text("ip_address IS NOT NULL"),
    )
    op.create_index(
        "ix_audit_logs_high_risk",
        "audit_logs",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("risk_score >= 70"),
    )
    op.create_index(
        "ix_audit_logs_late",
        "audit_logs",
        ["recorded_at", "id"],
        unique=False,
        postgresql_where=sa.text("recorded_at - created_at > interval '10 minutes'"),
    )
    # With the address itself in it, thousands of one person's events are counted without looking at their rows.
    op.drop_index("ix_audit_logs_email", table_name="audit_logs")
    op.create_index("ix_audit_logs_email", "audit_logs", BY_EMAIL, unique=False, postgresql_include=["user_email"])


def downgrade() -> None:
    op.drop_index("ix_audit_logs_email", table_name="audit_logs")
    op.create_index("ix_audit_logs_email", "audit_logs", BY_EMAIL, unique=False)
    op.drop_index("ix_audit_logs_late", table_name="audit_logs")
    op.drop_index("ix_audit_logs_high_risk", table_name="audit_logs")
    op.drop_index(op.f("ix_audit_logs_ip_address_created_at"), table_name="audit_logs")
    op.drop_table("audit_hours_progress")
    op.drop_table("audit_hours")
