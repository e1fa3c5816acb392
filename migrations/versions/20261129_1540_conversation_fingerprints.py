"""What was sent to start a conversation, as a fingerprint beside its key; conversations from before have none."""

import sqlalchemy as sa
from alembic import op

revision = "conversation_fingerprints"
down_revision = "sign_ins_over_at"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("conversations", sa.Column("start_fingerprint", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("conversations", "start_fingerprint")
