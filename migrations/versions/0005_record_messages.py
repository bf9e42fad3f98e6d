"""Keep tools, images and shortened views: the response of a rollout may be messages.

Revision 0005, after 0004.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")

NEW_COLUMNS = """,
    j.view_truncated,
    (SELECT body FROM texts WHERE texts.hash = rollouts.tools_hash) AS tools
"""
"""Last, because PostgreSQL adds columns only at the end of a view that it replaces."""


def upgrade() -> None:
    """Add two columns, a table and columns of the view; rows that are there keep NULL."""
    op.add_column("judgements", sa.Column("view_truncated", sa.Boolean()))
    op.add_column("rollouts", sa.Column("tools_hash", sa.String(64)))
    filled = sa.text("tools_hash IS NOT NULL")
    op.create_index(
        "ix_rollouts_tools_hash",
        "rollouts",
        ["tools_hash"],
        sqlite_where=filled,
        postgresql_where=filled,
    )
    op.create_table(
        "rollout_images",
        sa.Column("submitted_at", TIME, nullable=False),
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("rollout_index", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint(
            "submitted_at", "batch_id", "rollout_index", "hash", name="pk_rollout_images"
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_rollout_images_batch_id"),
        sa.ForeignKeyConstraint(["hash"], ["texts.hash"], name="fk_rollout_images_hash"),
    )
    op.create_index("ix_rollout_images_batch_id", "rollout_images", ["batch_id"])
    op.create_index("ix_rollout_images_hash", "rollout_images", ["hash"])
    _replace_view(NEW_COLUMNS, kept=True)


def downgrade() -> None:
    """Bring the earlier view back, and drop what the upgrade added; image texts stay in texts."""
    _replace_view("", kept=False)
    op.drop_table("rollout_images")
    op.drop_index("ix_rollouts_tools_hash", "rollouts")
    op.drop_column("rollouts", "tools_hash")
    op.drop_column("judgements", "view_truncated")


def _replace_view(more_columns: str, *, kept: bool) -> None:
    """Write the view anew; on PostgreSQL, `kept` keeps the grants on it and the views on top."""
    earlier = import_module("oyer.migrations.versions.0004_read_the_record_at_size")
    dialect = op.get_bind().dialect.name
    replaces = kept and dialect == "postgresql"
    if not replaces:
        op.execute("DROP VIEW judge_history")
    create = "CREATE OR REPLACE VIEW" if replaces else "CREATE VIEW"
    columns = earlier.HISTORY_COLUMNS.format(**earlier.FROM_JSON[dialect]).rstrip() + more_columns
    sql = f"{create} judge_history AS SELECT {columns} {earlier.SOURCES}"
    # `::float8` would be read as a parameter.
    op.execute(sa.text(sql.replace(":", r"\:")))
