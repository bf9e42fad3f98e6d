"""AReaL 1.0: `workflow="areal_workflow.JudgedWorkflow"`, a workflow that awaits Oyer.

`RLVRWorkflow` runs a reward function in a process pool and turns calls of more than 15 s into 0;
this workflow awaits the score instead. `OYER_CONFIG` names the configuration.

- Missing score: the episode returns None, AReaL's mark for a rejected one; its siblings train.
- Components: `oyer/<judge or term>` in AReaL's statistics, averaged over those that have it.
- Groups: the episodes of one task (`workflow_context`); each is judged when it is generated.
- Evaluation: split `eval` on record by `workflow_context.is_eval`; the step is the weights' version.
"""

import asyncio
import math
import uuid
from collections import Counter
from typing import Any

from areal import workflow_context
from areal.api import InferenceEngine, ModelResponse
from areal.utils import logging, stats_tracker
from areal.workflow.rlvr import RLVRWorkflow

from oyer.config.loading import load_config
from oyer.manager import MissingScores, RewardManager, Rollout
from oyer.manager.adapters import row_metadata
from oyer.manager.group_rewards import group_rewards
from oyer.protocol.content import as_messages, reference_text

manager = RewardManager(load_config())
log = logging.getLogger("JudgedWorkflow")

PROCESS = uuid.uuid4().hex
"""AReaL numbers tasks within one process, and a task's episodes run in one process."""


class JudgedWorkflow(RLVRWorkflow):
    """Single-turn rollouts scored by Oyer's judges."""

    def __init__(self, **options: Any) -> None:
        # A name, so that AReaL starts no process pool for it; nothing calls it.
        super().__init__(reward_fn="oyer", **options)
        self.reward_fn = None
        self._episodes: Counter[str] = Counter()
        self._open: Counter[str] = Counter()

    async def arun_episode(self, engine: InferenceEngine, data: dict[str, Any]) -> Any:
        """Run one episode; None if it has no reward."""
        group, _ = _group()
        self._episodes[group] += 1
        self._open[group] += 1
        # AReaL starts the episodes of a group together: now all of them are counted.
        await asyncio.sleep(0)
        try:
            return await super().arun_episode(engine, data)
        except MissingScores as error:
            log.warning("rejected: %s", error)
            return None
        finally:
            self._open[group] -= 1
            if not self._open[group]:
                del self._open[group], self._episodes[group]

    async def _compute_rewards(
        self, resp: ModelResponse, prompt_str: str, task_data: dict[str, Any]
    ) -> float:
        """Score one completion; `task_data` are the columns of its row.

        Raises:
            MissingScores: there is no reward.
        """
        group, context = _group()
        rollout = Rollout(
            prompt=as_messages(task_data.get("messages", prompt_str)),
            # The judge should not see special tokens.
            response=self.tokenizer.decode(resp.output_tokens, skip_special_tokens=True),
            response_tokens=resp.output_len,
            token_ids=resp.output_tokens,
            truncated=resp.stop_reason == "length",
            reference=reference_text(task_data.get("answer")),
            group_id=group,
            metadata=row_metadata(task_data, manager.config),
        )
        sample = getattr(context, "sample_idx", None)
        (found,) = await group_rewards(
            manager,
            [rollout],
            run="areal",
            split="eval" if context.is_eval else "train",
            step=max(resp.output_versions, default=None),
            group_size=self._episodes[group],
            # Releases after 1.0.4 number the samples of a group.
            sample_id=uuid.uuid4().hex if sample is None else str(sample),
        )
        present = {
            f"oyer/{name}": value
            for name, value in found.score.components.items()
            if math.isfinite(value)
        }
        stats_tracker.get(workflow_context.stat_scope()).scalar(
            **present, **{"oyer/missing": float(not found.judged)}
        )
        if not found.judged:
            raise MissingScores(f"no reward ({found.score.status}): {found.score.error}")
        return found.reward


def _group() -> tuple[str, workflow_context.WorkflowContext]:
    context = workflow_context.get()
    return f"{PROCESS}-{'eval' if context.is_eval else 'train'}-{context.task_id}", context
