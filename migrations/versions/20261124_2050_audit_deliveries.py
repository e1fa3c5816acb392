"""How far other systems have received the record."""

import sqlalchemy as sa
from alembic import op

revision = "audit_deliveries"
down_revision = "audit_seals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_deliveries",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=True),
        sa.Column("position_xid", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("position_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("inherited_to", sa.BigInteger(), nullable=True),
        sa.Column("floor_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("delivered", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_event_id", sa.Text(), nullable=True),
        sa.Column("last_event_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_audit_deliveries")),
    )


def downgrade() -> None:
    op.drop_table("audit_deliveries")
