"""Record every submission of a batch: when, from where and why; and who ended a batch early.

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")

FIRST_SUBMISSIONS = """
INSERT INTO submissions (batch_id, sent_at, why)
SELECT id, submitted_at, 'submit' FROM batches
"""
"""What is known of the batches on record already; nobody noted from where they came."""


def upgrade() -> None:
    """Create submissions, and a column of batches."""
    op.create_table(
        "submissions",
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("sent_at", TIME, nullable=False),
        sa.Column("host", sa.Text()),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("seen_at", TIME),
        sa.Column("worker", sa.Text()),
        sa.PrimaryKeyConstraint("batch_id", "sent_at", name="pk_submissions"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_submissions_batch_id"),
    )
    op.execute(FIRST_SUBMISSIONS)
    op.add_column("batches", sa.Column("ending", sa.Text()))


def downgrade() -> None:
    """Drop both; how often each batch was submitted stays in batches."""
    op.drop_column("batches", "ending")
    op.drop_table("submissions")
