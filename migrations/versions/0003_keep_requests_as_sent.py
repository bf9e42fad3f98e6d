"""Keep what rebuilds every request, the text of every attempt, and the judges' reasoning.

Revision 0003, after 0002.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
HASH = sa.String(64)


def columns() -> list[tuple[str, sa.Column[Any]]]:
    """List the new columns, each with its table."""
    return [
        ("judgements", sa.Column("parameters_hash", HASH)),
        ("judgements", sa.Column("messages_hash", HASH)),
        ("judgements", sa.Column("reasoning", sa.Text())),
        ("attempts", sa.Column("parameters_hash", HASH)),
        ("attempts", sa.Column("seed", sa.BigInteger())),
        ("attempts", sa.Column("turns", JSON)),
        ("attempts", sa.Column("reply_hash", HASH)),
        ("attempts", sa.Column("reasoning_hash", HASH)),
        ("attempts", sa.Column("error", sa.Text())),
    ]


def upgrade() -> None:
    """Add the columns; rows that are there keep NULL, since their requests were not kept."""
    for table, column in columns():
        op.add_column(table, column)


def downgrade() -> None:
    """Drop the columns; the texts that they named stay in texts."""
    for table, column in reversed(columns()):
        op.drop_column(table, column.name)
