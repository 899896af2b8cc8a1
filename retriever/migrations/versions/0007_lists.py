"""What the clicks on drafted lists say of the challenger: votes alone do not tell by how much."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("challenger", sa.Column("lists", sa.JSON()))
