"""Record which rewards compare lengths within an incomplete group.

Revision 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it is NULL in the rows so far."""
    op.add_column("rewards", sa.Column("length_status", sa.String(20)))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("rewards", "length_status")
