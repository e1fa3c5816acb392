"""The waiting room's tickets."""

import sqlalchemy as sa
from alembic import op

revision = "registration_tickets"
down_revision = "job_queue"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "registration_tickets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("email_mark", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("turn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registration_tickets")),
        sa.UniqueConstraint("number", name=op.f("uq_registration_tickets_number")),
    )
    op.create_index(
        "ix_registration_tickets_at_turn",
        "registration_tickets",
        ["turn_at"],
        unique=False,
        postgresql_where=sa.text("turn_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_registration_tickets_created_at"), "registration_tickets", ["created_at"], unique=False)
    op.create_index(
        "uq_registration_tickets_living",
        "registration_tickets",
        ["email_mark"],
        unique=True,
        postgresql_where=sa.text("done_at IS NULL AND left_at IS NULL"),
    )
    op.create_index(op.f("ix_registration_tickets_done_at"), "registration_tickets", ["done_at"], unique=False)
    op.create_index(
        "ix_registration_tickets_waiting",
        "registration_tickets",
        ["number"],
        unique=False,
        postgresql_where=sa.text("turn_at IS NULL AND left_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_registration_tickets_waiting",
        table_name="registration_tickets",
        postgresql_where=sa.text("turn_at IS NULL AND left_at IS NULL"),
    )
    op.drop_index(
        "uq_registration_tickets_living",
        table_name="registration_tickets",
        postgresql_where=sa.text("done_at IS NULL AND left_at IS NULL"),
    )
    op.drop_index(op.f("ix_registration_tickets_done_at"), table_name="registration_tickets")
    op.drop_index(op.f("ix_registration_tickets_created_at"), table_name="registration_tickets")
    op.drop_index(
        "ix_registration_tickets_at_turn",
        table_name="registration_tickets",
        postgresql_where=sa.text("turn_at IS NOT NULL"),
    )
    op.drop_table("registration_tickets")
