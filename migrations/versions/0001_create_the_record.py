"""Create the record: runs, batches, what was asked, answered and decided, and a view of it.

Revision 0001, after none.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
HASH = sa.String(64)

JUDGE_HISTORY = """
CREATE VIEW judge_history AS
SELECT
    runs.name AS run,
    batches.step,
    j.batch_id,
    j.rollout_index,
    rollouts.group_id,
    prompts.body AS prompt,
    responses.body AS response,
    refs.body AS reference,
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
    j.finished_at
FROM judgements AS j
JOIN batches ON batches.id = j.batch_id
JOIN runs ON runs.id = batches.run_id
LEFT JOIN rollouts ON rollouts.submitted_at = j.submitted_at
    AND rollouts.batch_id = j.batch_id AND rollouts.rollout_index = j.rollout_index
LEFT JOIN rewards ON rewards.submitted_at = j.submitted_at
    AND rewards.batch_id = j.batch_id AND rewards.rollout_index = j.rollout_index
LEFT JOIN texts AS prompts ON prompts.hash = rollouts.prompt_hash
LEFT JOIN texts AS responses ON responses.hash = rollouts.response_hash
LEFT JOIN texts AS refs ON refs.hash = rollouts.reference_hash
"""
"""One row per judgement, with the words it is about; the same SQL in both databases."""


def upgrade() -> None:
    """Create every table, then the view over them."""
    create_what_batches_share()
    create_rollouts()
    create_judgements()
    create_attempts()
    create_rewards()
    op.execute(JUDGE_HISTORY)


def downgrade() -> None:
    """Drop the record; what it holds is lost."""
    op.execute("DROP VIEW judge_history")
    op.drop_table("rewards")
    op.drop_table("attempts")
    op.drop_table("judgements")
    op.drop_table("rollouts")
    op.drop_table("batches")
    op.drop_table("rubrics")
    op.drop_table("texts")
    op.drop_table("runs")


def create_what_batches_share() -> None:
    """Create runs, batches, texts and rubrics."""
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("name", name="uq_runs_name"),
    )
    op.create_table(
        "texts",
        sa.Column("hash", HASH, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_texts"),
    )
    op.create_table(
        "rubrics",
        sa.Column("hash", HASH, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_rubrics"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer()),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("plan", JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("submissions", sa.Integer(), nullable=False),
        sa.Column("oyer_version", sa.Text(), nullable=False),
        sa.Column("submitted_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("counts", JSON),
        sa.Column("usage", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_batches_run_id"),
    )
    op.create_index("ix_batches_run_id_step", "batches", ["run_id", "step"])
    op.create_index("ix_batches_submitted_at", "batches", ["submitted_at"])


def create_rollouts() -> None:
    """Create rollouts; a B-tree of PostgreSQL refuses long group ids, a hash does not."""
    create_part(
        "rollouts",
        sa.Column("group_id", sa.Text()),
        sa.Column("prompt_hash", HASH, nullable=False),
        sa.Column("response_hash", HASH, nullable=False),
        sa.Column("reference_hash", HASH),
        sa.Column("base_score", sa.Double()),
        sa.Column("correct", sa.Boolean()),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("response_tokens", sa.Integer()),
        sa.Column("metadata", JSON),
        *(
            sa.ForeignKeyConstraint([name], ["texts.hash"], name=f"fk_rollouts_{name}")
            for name in ("prompt_hash", "response_hash", "reference_hash")
        ),
    )
    op.create_index("ix_rollouts_group_id", "rollouts", ["group_id"], postgresql_using="hash")


def create_judgements() -> None:
    """Create judgements."""
    create_part(
        "judgements",
        sa.Column("judge", sa.String(100), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("score", sa.Double()),
        sa.Column("reply", sa.Text()),
        sa.Column("parsed_layer", sa.Text()),
        sa.Column("parsed_span", sa.Text()),
        sa.Column("parser_version", sa.Integer()),
        sa.Column("model", sa.Text()),
        sa.Column("endpoint", sa.Text()),
        sa.Column("rubric_hash", HASH),
        sa.Column("request_hash", HASH),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("cost_usd", sa.Double()),
        sa.Column("latency_ms", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.CheckConstraint(
            "status <> 'scored' OR score IS NOT NULL",
            name=op.f("ck_judgements_scored_has_score"),
        ),
        key=("judge", "sample"),
    )
    for columns in (
        ["judge", "submitted_at"],
        ["status", "submitted_at"],
        ["request_hash"],
    ):
        op.create_index(f"ix_judgements_{'_'.join(columns)}", "judgements", columns)


def create_attempts() -> None:
    """Create attempts."""
    create_part(
        "attempts",
        sa.Column("judge", sa.String(100), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("url_index", sa.Integer()),
        sa.Column("http_status", sa.Integer()),
        sa.Column("error_class", sa.Text()),
        sa.Column("latency_ms", sa.Double()),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("cost_usd", sa.Double()),
        sa.Column("retry_wait_s", sa.Double()),
        key=("judge", "sample", "id"),
    )


def create_rewards() -> None:
    """Create rewards."""
    create_part(
        "rewards",
        sa.Column("reward", sa.Double()),
        sa.Column("unshaped_reward", sa.Double()),
        sa.Column("judge_score", sa.Double()),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("trainable", sa.Boolean(), nullable=False),
        sa.Column("terms", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.CheckConstraint(
            "NOT trainable OR reward IS NOT NULL",
            name=op.f("ck_rewards_trainable_has_reward"),
        ),
    )


def create_part(table: str, *columns: sa.schema.SchemaItem, key: tuple[str, ...] = ()) -> None:
    """Create a table whose key begins with the batch's submission time, id and rollout."""
    op.create_table(
        table,
        sa.Column("submitted_at", TIME, nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("rollout_index", sa.Integer(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint(
            "submitted_at", "batch_id", "rollout_index", *key, name=f"pk_{table}"
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=f"fk_{table}_batch_id"),
    )
