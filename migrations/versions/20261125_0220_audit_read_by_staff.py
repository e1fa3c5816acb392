"""The index by which a person is told what staff read of their conversations."""

import sqlalchemy as sa
from alembic import op

revision = "audit_read_by_staff"
down_revision = "audit_without_account"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_audit_logs_read_by_staff",
        "audit_logs",
        [sa.text("(event_metadata ->> 'owner_id')"), "created_at", "event_id"],
        unique=False,
        postgresql_where=sa.text("event_type = 'conversation_read_by_staff'"),
    )


def downgrade() -> None:
    op.drop_index("ix_audit_logs_read_by_staff", table_name="audit_logs")
