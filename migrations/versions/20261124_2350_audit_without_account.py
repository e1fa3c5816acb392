"""The index by which the audit log's events are found that belong to no account, or to one that is gone."""

import sqlalchemy as sa
from alembic import op

revision = "audit_without_account"
down_revision = "audit_hours"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_audit_logs_without_account",
        "audit_logs",
        [sa.text("lower(coalesce(actor_ref, user_email))"), "created_at", "event_id"],
        unique=False,
        postgresql_include=["actor_ref", "user_email"],
        postgresql_where=sa.text("user_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_audit_logs_without_account", table_name="audit_logs")
