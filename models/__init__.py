"""The SQL record: tables, writes and reads; importing it opens nothing."""

from oyer.models.base import Base
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.comments import COLUMNS, TABLES
from oyer.models.judgement import Attempt, Judgement
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, Text
from oyer.models.rubric import Rubric

for _table in Base.metadata.tables.values():
    _table.comment = TABLES[_table.name]
    for _column in _table.columns:
        _column.comment = COLUMNS[_table.name][_column.name]

__all__ = [
    "Attempt",
    "Base",
    "Batch",
    "BatchSubmission",
    "Judgement",
    "Reward",
    "Rollout",
    "Rubric",
    "Run",
    "Text",
]
