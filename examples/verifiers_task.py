"""verifiers 0.4, prime-rl: Oyer inside a task of your own.

Without code of your own, plug the judge into any taskset:

    --taskset.task.judges '[{"id": "oyer", "config": "oyer.yaml"}]'

It takes the options of `oyer.manager.verifiers.OyerJudgeConfig`: run, split, group_size, …

- Missing score: raises, so that the trace has an error and is not trained on.
- Components: metrics `oyer/<judge or term>`, and rewards `oyer` and `oyer/length` by key.
- Groups: the rollouts of one task, with the option `group_size`.
- Evaluation: give the evaluation environment's judge `"split": "eval"`.
- Usage: calls, tokens and cost are on the trace, without `group_size`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import verifiers.v1 as vf

from oyer.manager.verifiers import OyerJudge, OyerJudgeConfig

judge = OyerJudge(OyerJudgeConfig(config=Path("oyer.yaml"), run="my-run"))


class JudgedTask(vf.Task[vf.TaskData]):
    """A task that Oyer's judges score."""

    @vf.reward
    async def oyer(self, trace: Any) -> Mapping[str, float]:
        """Score the trace.

        Raises:
            MissingScores: there is no reward; verifiers keeps the trace out of training.
        """
        return await judge.score(self.data, trace)
