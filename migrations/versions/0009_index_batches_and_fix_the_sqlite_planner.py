"""Index batches by step, status and run, and give SQLite's planner the sizes of a large record.

Revision 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INDEXES = (["step"], ["status", "submitted_at"], ["run_id", "submitted_at"])

SQLITE_STATISTICS = {
    "runs": {"sqlite_autoindex_runs_1": "100 1"},
    "batches": {
        "sqlite_autoindex_batches_1": "10000 1",
        "ix_batches_run_id_step": "10000 100 2",
        "ix_batches_submitted_at": "10000 1",
        "ix_batches_step": "10000 100",
        "ix_batches_run_id_submitted_at": "10000 100 1",
        "ix_batches_status_submitted_at": "10000 5000 1",
    },
    "judgements": {
        "sqlite_autoindex_judgements_1": "1000000 1000 1000 2 1 1",
        "ix_judgements_batch_id_rollout_index": "1000000 1000 2",
        "ix_judgements_judge_submitted_at": "1000000 500000 1000",
        "ix_judgements_status_submitted_at": "1000000 500000 1000",
        "ix_judgements_request_hash": "1000000 2",
        "ix_judgements_parameters_hash": "1000000 100000",
    },
    "rollouts": {
        "sqlite_autoindex_rollouts_1": "1000000 1000 1000 1",
        "ix_rollouts_batch_id": "1000000 1000",
        "ix_rollouts_group_id": "1000000 16",
        "ix_rollouts_prompt_hash": "1000000 16",
        "ix_rollouts_response_hash": "1000000 2",
        "ix_rollouts_reference_hash": "1000000 16",
    },
    "rewards": {
        "sqlite_autoindex_rewards_1": "1000000 1000 1000 1",
        "ix_rewards_batch_id": "1000000 1000",
    },
    "attempts": {
        "sqlite_autoindex_attempts_1": "1000000 1000 1000 2 2 2 1",
        "ix_attempts_batch_id": "1000000 1000",
    },
    "texts": {"sqlite_autoindex_texts_1": "2000000 1"},
}
"""Rows of each index, then rows per value of its first column, of its first two, and so on.

SQLite has no statistics until somebody runs ANALYZE. It then takes any equality for selective: a
query on `status = 'scored'` and a run read every scored judgement. Fixed figures of a record of a
million judgements keep its plans the same at all sizes (sqlite.org/optoverview.html, 'Manual Control
Of Query Plans Using SQLITE_STAT Tables'); an ANALYZE replaces them.
"""


def upgrade() -> None:
    """Create the indexes and, on SQLite, the statistics."""
    for columns in INDEXES:
        op.create_index(f"ix_batches_{'_'.join(columns)}", "batches", columns)
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute("ANALYZE sqlite_schema")  # creates the table of statistics if there is none
    known = {row[0] for row in op.get_bind().execute(sa.text("SELECT tbl FROM sqlite_stat1"))}
    statistics = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
    rows = [
        {"tbl": table, "idx": index, "stat": figures}
        for table, indexes in SQLITE_STATISTICS.items()
        if table not in known
        for index, figures in indexes.items()
    ]
    if rows:
        op.bulk_insert(statistics, rows)
    op.execute("ANALYZE sqlite_schema")  # loads them


def downgrade() -> None:
    """Drop the indexes and the statistics."""
    for columns in INDEXES:
        op.drop_index(f"ix_batches_{'_'.join(columns)}", "batches")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DELETE FROM sqlite_stat1")
        op.execute("ANALYZE sqlite_schema")
