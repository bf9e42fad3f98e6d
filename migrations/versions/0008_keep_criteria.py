"""Keep the verdicts on criteria.

Revision 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")

HISTORY = """
CREATE VIEW criterion_history AS SELECT
    c.submitted_at, runs.name AS run, batches.step, c.batch_id, c.rollout_index, rollouts.group_id,
    c.judge, c.sample, c.position, c.name, c.verdict, c.value, c.reason, c.weight, c.required, c.span,
    j.status, j.score, j.model, j.source
FROM criteria AS c
JOIN batches ON batches.id = c.batch_id
JOIN runs ON runs.id = batches.run_id
JOIN rollouts ON rollouts.submitted_at = c.submitted_at AND rollouts.batch_id = c.batch_id
    AND rollouts.rollout_index = c.rollout_index
JOIN judgements AS j ON j.submitted_at = c.submitted_at AND j.batch_id = c.batch_id
    AND j.rollout_index = c.rollout_index AND j.judge = c.judge AND j.sample = c.sample
"""


def upgrade() -> None:
    """Create the table and the view."""
    op.create_table(
        "criteria",
        sa.Column("submitted_at", TIME, nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("rollout_index", sa.Integer(), nullable=False),
        sa.Column("judge", sa.String(100), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text()),
        sa.Column("value", sa.Double()),
        sa.Column("reason", sa.Text()),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("required", sa.Boolean(), nullable=False),
        sa.Column("span", sa.Text()),
        sa.PrimaryKeyConstraint(
            *("submitted_at", "batch_id", "rollout_index", "judge", "sample", "position"),
            name="pk_criteria",
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_criteria_batch_id"),
    )
    op.create_index("ix_criteria_batch_id", "criteria", ["batch_id"])
    op.execute(HISTORY)


def downgrade() -> None:
    """Drop both; verdicts on criteria are lost, the replies that hold them stay."""
    op.execute("DROP VIEW criterion_history")
    op.drop_table("criteria")
