"""The score of every shown result, which tells how far it stands out of its list."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("shown", sa.Column("score", sa.Float(), nullable=True))
