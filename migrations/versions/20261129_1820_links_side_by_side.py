"""Links that confirm an address stand side by side: a newer one no longer takes an older one's row."""

from alembic import op

revision = "links_side_by_side"
down_revision = "conversation_fingerprints"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint("pk_email_verifications", "email_verifications", type_="primary")
    op.drop_constraint("uq_email_verifications_token_hash", "email_verifications", type_="unique")
    op.create_primary_key("pk_email_verifications", "email_verifications", ["token_hash"])
    op.create_index("ix_email_verifications_user_id", "email_verifications", ["user_id"], unique=False)


def downgrade() -> None:
    # The newest of each account stays, as it would have been.
    op.execute(
        "DELETE FROM email_verifications AS older USING email_verifications AS newer"
        " WHERE newer.user_id = older.user_id AND (newer.created_at, newer.token_hash)"
        " > (older.created_at, older.token_hash)"
    )
    op.drop_index("ix_email_verifications_user_id", table_name="email_verifications")
    op.drop_constraint("pk_email_verifications", "email_verifications", type_="primary")
    op.create_unique_constraint("uq_email_verifications_token_hash", "email_verifications", ["token_hash"])
    op.create_primary_key("pk_email_verifications", "email_verifications", ["user_id"])
