"""Keep which turn of a response a judgement is about.

Revision 0010, after 0009.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_0005 = import_module("oyer.migrations.versions.0005_record_messages")


def upgrade() -> None:
    """Add a column to the table and, last, to the view; rows that are there keep NULL."""
    op.add_column("judgements", sa.Column("turn", sa.Integer()))
    columns = f"{_0005.NEW_COLUMNS.rstrip()},\n    j.turn\n"
    _0005._replace_view(columns, kept=True)


def downgrade() -> None:
    """Bring the earlier view back, and drop the column; the scores of turns stay."""
    _0005._replace_view(_0005.NEW_COLUMNS, kept=False)
    op.drop_column("judgements", "turn")
