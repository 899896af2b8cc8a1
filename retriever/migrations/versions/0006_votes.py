"""What a vote is about: people who ask the same are not independent."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("counted", sa.Column("cluster", sa.String()))
    op.add_column("counted", sa.Column("vote", sa.Integer(), nullable=False, server_default="0"))
