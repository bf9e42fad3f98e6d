"""Mark the second requests of hedged calls.

Revision 0011, after 0010.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it is NULL in the rows so far."""
    op.add_column("attempts", sa.Column("hedge", sa.Boolean()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("attempts", "hedge")
