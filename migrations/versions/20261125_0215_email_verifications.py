"""The links by which people confirm their addresses; administrators count as confirmed, since an operator made them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "email_verifications"
down_revision = "audit_read_by_staff"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "email_verifications",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("form", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_email_verifications_user_id_users_v2"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_email_verifications")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_email_verifications_token_hash")),
    )
    op.create_index(op.f("ix_email_verifications_expires_at"), "email_verifications", ["expires_at"], unique=False)
    op.execute("UPDATE users_v2 SET email_verified_at = now() WHERE user_role = 'admin' AND email_verified_at IS NULL")


def downgrade() -> None:
    op.drop_index(op.f("ix_email_verifications_expires_at"), table_name="email_verifications")
    op.drop_table("email_verifications")
