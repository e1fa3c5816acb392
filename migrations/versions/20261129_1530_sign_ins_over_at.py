"""The indexes by which sessions and tokens are found that have long been over."""

import sqlalchemy as sa
from alembic import op

revision = "sign_ins_over_at"
down_revision = "email_verifications"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_user_sessions_over_at", "user_sessions", [sa.text("LEAST(expires_at, ended_at)")], unique=False)
    op.create_index("ix_api_tokens_over_at", "api_tokens", [sa.text("LEAST(expires_at, revoked_at)")], unique=False)


def downgrade() -> None:
    op.drop_index("ix_api_tokens_over_at", table_name="api_tokens")
    op.drop_index("ix_user_sessions_over_at", table_name="user_sessions")
