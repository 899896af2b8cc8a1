"""Up to which revision the index of a build was optimised; an index of the tombstones."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("builds", sa.Column("optimized", sa.BigInteger(), nullable=True))
    op.create_index(
        "documents_tombstones",
        "documents",
        ["revision"],
        sqlite_where=sa.text("deleted = 1"),
        postgresql_where=sa.text("deleted"),
    )
