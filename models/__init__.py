"""The SQL record: tables, writes and reads. Importing it opens no connection."""

from oyer.models.base import Base
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.criterion import Criterion
from oyer.models.judgement import Attempt, Judgement
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, RolloutImage, Text
from oyer.models.rubric import Rubric

__all__ = [
    "Attempt",
    "Base",
    "Batch",
    "BatchSubmission",
    "Criterion",
    "Judgement",
    "Reward",
    "Rollout",
    "RolloutImage",
    "Rubric",
    "Run",
    "Text",
]
