"""The number of the transaction that stored a row, until the revision of the seals brings it."""

import sqlalchemy as sa
from alembic import op

revision = "stored_xid_placeholder"
down_revision = "audit_deliveries"
branch_labels = None
depends_on = None


class Xid8(sa.types.UserDefinedType):
    """PostgreSQL's 64-bit transaction number."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


def upgrade() -> None:
    op.add_column(
        "audit_logs",
        sa.Column("stored_xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
    )
    op.create_index(op.f("ix_audit_logs_stored_xid_id"), "audit_logs", ["stored_xid", "id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_audit_logs_stored_xid_id"), table_name="audit_logs")
    op.drop_column("audit_logs", "stored_xid")
