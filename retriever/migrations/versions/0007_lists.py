"""What the clicks on drafted lists say of the challenger, beside the votes, which do not tell by how much."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "lists",
        sa.Column("run_id", sa.String(), primary_key=True),
        sa.Column("cluster", sa.String(), primary_key=True),
        sa.Column("times", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("delta", "variance", "third", "loss")),
    )
