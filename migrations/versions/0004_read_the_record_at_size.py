"""Index the record for reads by batch and for pruning; give the views what analysts ask for.

Revision 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "judgements": [["batch_id", "rollout_index"], ["parameters_hash"]],
    "attempts": [["batch_id"]],
    "rewards": [["batch_id"]],
    "rollouts": [["batch_id"], ["prompt_hash"], ["response_hash"], ["reference_hash"]],
}
"""Every foreign key has an index: deleting what it points to would read the whole table without."""

SET_INDEXES = [
    ("judgements", "messages_hash", "messages_hash"),
    ("attempts", "parameters_hash", "parameters_hash"),
    ("attempts", "reply_hash", "reply_hash"),
    ("attempts", "reasoning_hash", "reasoning_hash"),
    ("attempts", "turns", "batch_id"),
]
"""Table, column that is NULL in most rows, and column to index where it is not.

Pruning looks up whether a text is still held.
"""

HISTORY_COLUMNS = """
    runs.name AS run,
    batches.step,
    j.batch_id,
    j.rollout_index,
    rollouts.group_id,
    (SELECT body FROM texts WHERE texts.hash = rollouts.prompt_hash) AS prompt,
    (SELECT body FROM texts WHERE texts.hash = rollouts.response_hash) AS response,
    (SELECT body FROM texts WHERE texts.hash = rollouts.reference_hash) AS reference,
    rollouts.base_score,
    j.judge,
    j.sample,
    j.model,
    j.endpoint,
    j.status,
    j.score,
    j.reply,
    j.error,
    rewards.reward,
    rewards.unshaped_reward,
    rewards.trainable,
    rewards.terms,
    j.prompt_tokens,
    j.completion_tokens,
    j.cost_usd,
    j.latency_ms,
    j.attempts,
    j.source,
    j.worker,
    j.submitted_at,
    j.started_at,
    j.finished_at,
    {split} AS split,
    rewards.group_size,
    rollouts.response_tokens,
    rollouts.correct,
    rollouts.truncated,
    rollouts.metadata,
    {scale_low} AS scale_low,
    {scale_high} AS scale_high,
    (SELECT name FROM rubrics WHERE rubrics.hash = j.rubric_hash) AS rubric,
    j.parsed_span
"""
"""The columns of 0001 first and in their order, which PostgreSQL demands of a view it replaces.

Texts and rubrics are subqueries rather than joins: SQLite looks up each row of a join that a
grouped query does not use, and no subquery that it does not use.
"""

SOURCES = """
FROM judgements AS j
JOIN batches ON batches.id = j.batch_id
JOIN runs ON runs.id = batches.run_id
LEFT JOIN rollouts ON rollouts.submitted_at = j.submitted_at
    AND rollouts.batch_id = j.batch_id AND rollouts.rollout_index = j.rollout_index
LEFT JOIN rewards ON rewards.submitted_at = j.submitted_at
    AND rewards.batch_id = j.batch_id AND rewards.rollout_index = j.rollout_index
"""

FROM_JSON = {
    "sqlite": {
        "split": "coalesce(batches.split, json_extract(rollouts.metadata, '$.split'))",
        "scale_low": (
            "(SELECT json_extract(p.value, '$.scale[0]') FROM json_each(batches.plan, '$.judges')"
            " AS p WHERE json_extract(p.value, '$.name') = j.judge)"
        ),
        "scale_high": (
            "(SELECT json_extract(p.value, '$.scale[1]') FROM json_each(batches.plan, '$.judges')"
            " AS p WHERE json_extract(p.value, '$.name') = j.judge)"
        ),
    },
    "postgresql": {
        "split": "coalesce(batches.split, rollouts.metadata ->> 'split')",
        "scale_low": (
            "(SELECT (p -> 'scale' ->> 0)::float8 FROM jsonb_array_elements(batches.plan -> 'judges')"
            " AS p WHERE p ->> 'name' = j.judge)"
        ),
        "scale_high": (
            "(SELECT (p -> 'scale' ->> 1)::float8 FROM jsonb_array_elements(batches.plan -> 'judges')"
            " AS p WHERE p ->> 'name' = j.judge)"
        ),
    },
}
"""What is read out of JSON, which each database does in its own words."""

GROUP_SIZES = """
UPDATE rewards SET group_size = sizes.size
FROM (
    SELECT batch_id, rollout_index, submitted_at,
        count(*) OVER (PARTITION BY submitted_at, batch_id, group_id) AS size
    FROM rollouts WHERE group_id IS NOT NULL
) AS sizes
WHERE sizes.submitted_at = rewards.submitted_at AND sizes.batch_id = rewards.batch_id
    AND sizes.rollout_index = rewards.rollout_index
"""

HISTORY_OF_0001 = (
    """
CREATE VIEW judge_history AS
SELECT
    runs.name AS run, batches.step, j.batch_id, j.rollout_index, rollouts.group_id,
    prompts.body AS prompt, responses.body AS response, refs.body AS reference,
    rollouts.base_score, j.judge, j.sample, j.model, j.endpoint, j.status, j.score, j.reply,
    j.error, rewards.reward, rewards.unshaped_reward, rewards.trainable, rewards.terms,
    j.prompt_tokens, j.completion_tokens, j.cost_usd, j.latency_ms, j.attempts, j.source,
    j.worker, j.submitted_at, j.started_at, j.finished_at
"""
    + SOURCES
    + """
LEFT JOIN texts AS prompts ON prompts.hash = rollouts.prompt_hash
LEFT JOIN texts AS responses ON responses.hash = rollouts.response_hash
LEFT JOIN texts AS refs ON refs.hash = rollouts.reference_hash
"""
)


def upgrade() -> None:
    """Add two columns and the indexes, and replace the view."""
    op.add_column("batches", sa.Column("split", sa.Text()))
    op.add_column("rewards", sa.Column("group_size", sa.Integer()))
    op.execute(GROUP_SIZES)
    for table, indexes in INDEXES.items():
        for columns in indexes:
            op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    for table, name, column in SET_INDEXES:
        filled = sa.text(f"{name} IS NOT NULL")
        op.create_index(
            f"ix_{table}_{name}", table, [column], sqlite_where=filled, postgresql_where=filled
        )
    dialect = op.get_bind().dialect.name
    # Replacing keeps the grants on the view, and the views that others made on top of it.
    replace = "CREATE OR REPLACE VIEW" if dialect == "postgresql" else "CREATE VIEW"
    if dialect != "postgresql":
        op.execute("DROP VIEW judge_history")
    history = HISTORY_COLUMNS.format(**FROM_JSON[dialect])
    op.execute(sa.text(_escaped(f"{replace} judge_history AS SELECT {history} {SOURCES}")))


def downgrade() -> None:
    """Bring the earlier view back; drop the indexes and what the two columns hold."""
    op.execute("DROP VIEW judge_history")
    for table, name, _ in SET_INDEXES:
        op.drop_index(f"ix_{table}_{name}", table)
    for table, indexes in INDEXES.items():
        for columns in indexes:
            op.drop_index(f"ix_{table}_{'_'.join(columns)}", table)
    op.drop_column("rewards", "group_size")
    op.drop_column("batches", "split")
    op.execute(HISTORY_OF_0001)


def _escaped(sql: str) -> str:
    """Keep `::float8` from being read as a parameter."""
    return sql.replace(":", r"\:")
