"""An index of the places that were given up while their owners waited: they are nobody's before anybody."""

import sqlalchemy as sa
from alembic import op

revision = "places_given_up"
down_revision = "links_side_by_side"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_registration_tickets_given_up",
        "registration_tickets",
        ["number"],
        unique=False,
        postgresql_where=sa.text("turn_at IS NULL AND left_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_registration_tickets_given_up", table_name="registration_tickets")
