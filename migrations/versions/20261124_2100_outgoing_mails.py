"""The mails that were ordered."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "outgoing_mails"
down_revision = "audit_deliveries"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outgoing_mails",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("letter", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column(
            "fields",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_trouble", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("text_body", sa.Text(), nullable=True),
        sa.Column("html_body", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'sent', 'kept', 'refused', 'given_up')",
            name=op.f("ck_outgoing_mails_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_outgoing_mails_user_id_users_v2"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outgoing_mails")),
    )
    op.create_index(op.f("ix_outgoing_mails_created_at"), "outgoing_mails", ["created_at"], unique=False)
    op.create_index(
        op.f("ix_outgoing_mails_state_created_at_id"), "outgoing_mails", ["state", "created_at", "id"], unique=False
    )
    op.create_index(op.f("ix_outgoing_mails_user_id"), "outgoing_mails", ["user_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_outgoing_mails_user_id"), table_name="outgoing_mails")
    op.drop_index(op.f("ix_outgoing_mails_state_created_at_id"), table_name="outgoing_mails")
    op.drop_index(op.f("ix_outgoing_mails_created_at"), table_name="outgoing_mails")
    op.drop_table("outgoing_mails")
