"""The SQL record: tables, writes and reads. Importing it opens no connection."""

from oyer.models.base import Base
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.human_verdict import HumanVerdict
from oyer.models.judgement import Attempt, Judgement, JudgementCriterion, Rubric
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, RolloutImage, Text
from oyer.models.step_total import StepTotal

__all__ = [
    "Attempt",
    "Base",
    "Batch",
    "BatchSubmission",
    "HumanVerdict",
    "Judgement",
    "JudgementCriterion",
    "Reward",
    "Rollout",
    "RolloutImage",
    "Rubric",
    "Run",
    "StepTotal",
    "Text",
]
