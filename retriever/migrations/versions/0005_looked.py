"""Whether a challenger had a first look: one that had none may spend its budget in later nights."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("challenger", sa.Column("looked", sa.Boolean(), nullable=False, server_default=sa.true()))
