"""Keep totals per step, which curves read, and verdicts of people.

Revision 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")

PLACE = "batches.run_id, coalesce(batches.step, -1), coalesce(batches.split, '')"
COMPONENT = """'component/' || CASE WHEN each.key LIKE 'score:%' THEN substr(each.key, 7)
    WHEN each.key LIKE 'advantage:%' THEN substr(each.key, 11) ELSE each.key END"""
IS_COMPONENT = """each.key NOT IN ('base_score', 'judge', 'gate') AND each.key NOT LIKE 'judge:%'
    AND each.key NOT LIKE 'history:%'"""
REWARDS = """
FROM rewards JOIN batches ON batches.id = rewards.batch_id AND batches.submitted_at = rewards.submitted_at
"""

TOTALS = [
    f"""SELECT {PLACE}, 'reward', count(*), sum(reward), sum(reward * reward) {REWARDS}
    WHERE trainable AND reward IS NOT NULL GROUP BY 1, 2, 3""",
    f"""SELECT {PLACE}, 'status/' || rewards.status, count(*), 0.0, 0.0 {REWARDS}
    GROUP BY 1, 2, 3, 4""",
    f"""SELECT {PLACE}, 'cost_usd', count(*), coalesce(sum(cost_usd), 0.0), 0.0
    FROM attempts JOIN batches ON batches.id = attempts.batch_id
    WHERE batches.counts IS NOT NULL GROUP BY 1, 2, 3""",
    f"""SELECT {PLACE}, 'judge_ms', count(*), sum(latency_ms), sum(latency_ms * latency_ms)
    FROM judgements JOIN batches ON batches.id = judgements.batch_id
    WHERE batches.counts IS NOT NULL AND source = 'called' AND latency_ms IS NOT NULL
    GROUP BY 1, 2, 3""",
    """SELECT run_id, step, split, 'groups', count(*), sum(CASE WHEN low = high THEN 1.0 ELSE 0.0 END), 0.0
    FROM (SELECT batches.run_id, coalesce(batches.step, -1) AS step, coalesce(batches.split, '') AS split,
        min(reward) AS low, max(reward) AS high
    FROM rewards JOIN batches ON batches.id = rewards.batch_id AND batches.submitted_at = rewards.submitted_at
    JOIN rollouts ON rollouts.submitted_at = rewards.submitted_at AND rollouts.batch_id = rewards.batch_id
        AND rollouts.rollout_index = rewards.rollout_index
    WHERE trainable AND reward IS NOT NULL AND group_id IS NOT NULL
    GROUP BY batches.id, batches.run_id, batches.step, batches.split, rollouts.group_id
    HAVING count(*) > 1) AS spreads GROUP BY 1, 2, 3""",
]
"""The quantities of `tasks/rewards/totals.py` for batches that ended before this revision."""

BY_DIALECT = {
    "sqlite": [
        f"""SELECT {PLACE}, {COMPONENT}, count(*), sum(each.value),
            sum(each.value * each.value)
        FROM rewards JOIN batches ON batches.id = rewards.batch_id
            AND batches.submitted_at = rewards.submitted_at, json_each(rewards.terms) AS each
        WHERE {IS_COMPONENT} AND each.type IN ('real', 'integer')
        GROUP BY 1, 2, 3, 4""",
        f"""SELECT {PLACE}, 'batch_s', count(*),
            sum((julianday(finished_at) - julianday(submitted_at)) * 86400.0), 0.0
        FROM batches WHERE counts IS NOT NULL GROUP BY 1, 2, 3""",
    ],
    "postgresql": [
        f"""SELECT {PLACE}, {COMPONENT}, count(*),
            sum(each.value::text::float8), sum(each.value::text::float8 * each.value::text::float8)
        FROM rewards JOIN batches ON batches.id = rewards.batch_id
            AND batches.submitted_at = rewards.submitted_at, jsonb_each(rewards.terms) AS each
        WHERE {IS_COMPONENT} AND jsonb_typeof(each.value) = 'number'
        GROUP BY 1, 2, 3, 4""",
        f"""SELECT {PLACE}, 'batch_s', count(*),
            sum(extract(epoch FROM finished_at - submitted_at)::float8), 0.0
        FROM batches WHERE counts IS NOT NULL GROUP BY 1, 2, 3""",
    ],
}
"""What each database writes in its own words."""


def upgrade() -> None:
    """Create both tables, and fill the totals from what is on record."""
    op.create_table(
        "step_totals",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(100), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
        sa.Column("total_sq", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step", "split", "name", name="pk_step_totals"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_step_totals_run_id"),
    )
    op.add_column(
        "batches",
        sa.Column("preliminary", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    dialect = op.get_bind().dialect.name
    for query in TOTALS + BY_DIALECT[dialect]:
        op.execute(sa.text(("INSERT INTO step_totals " + query).replace(":", r"\:")))
    op.create_table(
        "human_verdicts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("rollout_index", sa.Integer(), nullable=False),
        sa.Column("judge", sa.String(100), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("score", sa.Double()),
        sa.Column("note", sa.Text()),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.CheckConstraint(
            "(verdict = 'should_be') = (score IS NOT NULL)",
            name=op.f("ck_human_verdicts_score_if_should_be"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_human_verdicts"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_human_verdicts_batch_id"),
    )
    op.create_index(
        "ix_human_verdicts_batch_id_rollout_index", "human_verdicts", ["batch_id", "rollout_index"]
    )
    op.create_index("ix_human_verdicts_created_at", "human_verdicts", ["created_at"])


def downgrade() -> None:
    """Drop both tables; verdicts of people are lost."""
    op.drop_table("human_verdicts")
    op.drop_table("step_totals")
    op.drop_column("batches", "preliminary")
