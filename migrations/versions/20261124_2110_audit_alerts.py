"""Alerts, and how far the record was read for them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "audit_alerts"
down_revision = "outgoing_mails"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_alerts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column(
            "details",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("quiet_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["acknowledged_by"],
            ["users_v2.id"],
            name=op.f("fk_audit_alerts_acknowledged_by_users_v2"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_audit_alerts_user_id_users_v2"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_alerts")),
    )
    op.create_index(op.f("ix_audit_alerts_last_at"), "audit_alerts", ["last_at"], unique=False)
    op.create_index(op.f("ix_audit_alerts_user_id"), "audit_alerts", ["user_id"], unique=False)
    op.create_index(
        "uq_audit_alerts_open",
        "audit_alerts",
        ["kind", "subject"],
        unique=True,
        postgresql_where=sa.text("quiet_at IS NULL"),
    )
    op.create_table(
        "audit_alert_cursor",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("settled_id", sa.BigInteger(), nullable=False),
        sa.Column("seen_id", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_ids", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_alert_cursor_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_alert_cursor")),
    )


def downgrade() -> None:
    op.drop_table("audit_alert_cursor")
    op.drop_index("uq_audit_alerts_open", table_name="audit_alerts", postgresql_where=sa.text("quiet_at IS NULL"))
    op.drop_index(op.f("ix_audit_alerts_user_id"), table_name="audit_alerts")
    op.drop_index(op.f("ix_audit_alerts_last_at"), table_name="audit_alerts")
    op.drop_table("audit_alerts")
