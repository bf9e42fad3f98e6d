"""The reward functions for OpenRLHF's `--reward.remote_url`, called once per sample."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.manager.adapters import (
    OutageBreaker,
    as_number,
    check_fits,
    filed_under,
    one_by_one,
)
from oyer.manager.client import RewardManager
from oyer.manager.openrlhf.number_answers import Answer, answer
from oyer.manager.openrlhf.query_text import QueryText
from oyer.manager.requirements import compares
from oyer.manager.score import Score, without_reward
from oyer.manager.stand_ins import StandIns, is_missing, with_group_mean
from oyer.manager.streaming.identity import RunOptions
from oyer.manager.streaming.pending import PendingScores
from oyer.protocol.content import policy_text, reference_text
from oyer.protocol.errors import InvalidInput, InvalidRollout
from oyer.protocol.rollout import Rollout

log = get_logger(__name__)

TIMEOUT_S = 150.0
"""Longest wait for a reward, in seconds; OpenRLHF's client gives up after 180 s."""

Row = Rollout | InvalidRollout
"""A rollout of a request, or why its row cannot be scored."""


def rows_of(
    queries: Sequence[str],
    prompts: Sequence[str] | None,
    labels: Sequence[Any] | None,
    texts: QueryText,
) -> list[Row]:
    """Convert a request; the rollouts of one prompt form a group.

    Raises:
        InvalidInput: the lists differ in length.
    """
    prompts = list(prompts or [""] * len(queries))
    labels = list(labels or [None] * len(queries))
    if not len(queries) == len(prompts) == len(labels):
        raise InvalidInput(
            f"query, prompts, labels: have {len(queries)}, {len(prompts)} and {len(labels)} entries;"
            " send one of each per rollout"
        )
    return [_row(*row, texts) for row in zip(queries, prompts, labels, strict=True)]


def _row(query: str, prompt: str, label: Any, texts: QueryText) -> Row:
    try:
        response, ended = texts.response(query, prompt)
    except InvalidRollout as error:
        return error
    return Rollout(
        prompt=prompt,
        response=response,
        group_id=group_id_of(prompt),
        reference=reference_of(label),
        truncated=not ended,
    )


def group_id_of(prompt: str) -> str:
    """Return the id of the group of a prompt, for protocols without group ids."""
    return sha256(prompt.encode("utf-8", "replace")).hexdigest()[:32]


def reference_of(label: Any) -> str | None:
    """Convert a label to the reference answer that the judge sees.

    Raises:
        InvalidInput: it has no text form, e.g. an integer of thousands of digits.
    """
    try:
        return reference_text(label)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"label: cannot be converted to text ({error}); send a string"
        ) from error


def reward_function(
    config: RewardManager | RewardConfig | Mapping[str, Any] | str | Path,
    *,
    base_score: Callable[[str, str, Any], float] | None = None,
    group_size: int | None = None,
    run: str | None = None,
    timeout_s: float = TIMEOUT_S,
    stand_in: float | None = None,
    tokenizer: str | None = None,
) -> Callable[..., Answer]:
    """Make a `reward_func(queries, prompts, labels)`.

    Args:
        config: a manager, its configuration, or the path of one.
        base_score: computes the verifier's score from (prompt, response, label).
        group_size: samples per prompt; needed if a length method compares them. With it, a missing
            judge score is replaced by its group's mean unless `reward.on_missing` says otherwise.
        run: the training run on record, by default `openrlhf`. Processes that name the same run
            share its groups; without a name, the processes of one Ray job do.
        timeout_s: longest wait for a reward, in seconds.
        stand_in: the reward given for a missing one; by default the mean of the prompt's rewards so
            far, else of the latest ones, else 0.
        tokenizer: a folder or Hugging Face name whose special tokens are the end marks; by default
            the configured `tokenizer`, else the end marks of common models.

    Raises:
        InvalidConfig: a key is wrong, no broker is named, or OpenRLHF does not send a needed field.
    """
    given = RewardManager.of(config)
    has_base = base_score is not None
    check_fits(
        given.config, who="OpenRLHF", base_score=has_base, group_size=group_size, how="group_size"
    )
    streamed, outages = one_by_one(with_group_mean(given.config) if group_size else given.config)
    manager = given.under(streamed)
    return _RewardFunc(
        manager=manager,
        outages=outages,
        owner=filed_under(run, "openrlhf", manager),
        base_score=base_score,
        group_size=group_size,
        timeout_s=timeout_s,
        stand_ins=StandIns(stand_in),
        texts=QueryText.of(given.config, tokenizer),
    )


@dataclass(frozen=True, kw_only=True)
class _RewardFunc:
    manager: RewardManager
    outages: OutageBreaker
    owner: RunOptions
    base_score: Callable[[str, str, Any], float] | None
    group_size: int | None
    timeout_s: float
    stand_ins: StandIns
    texts: QueryText

    def __call__(
        self,
        queries: Sequence[str],
        prompts: Sequence[str] | None = None,
        labels: Sequence[Any] | None = None,
        **_: Any,
    ) -> Answer:
        prompts = list(prompts or [""] * len(queries))
        rows = rows_of(queries, prompts, labels, self.texts)
        if self.base_score is not None:
            rows = _with_base_scores(rows, labels, self.base_score)
        scores = self._scores(prompts, rows)
        groups = [group_id_of(prompt) for prompt in prompts]
        for group, score in zip(groups, scores, strict=True):
            if is_missing(score):
                log.warning("a rollout has no score (%s): %s", score.status, score.error)
            self.stand_ins.add(group, [score])
        stand_ins = [self.stand_ins.reward(group) for group in groups]
        return answer(scores, self.manager.config, stand_ins)

    def _scores(self, prompts: Sequence[str], rows: Sequence[Row]) -> list[Score]:
        """Score rows; each is a sample of its own, because OpenRLHF calls once per sample."""
        rules = self.manager.config.reward
        call = uuid.uuid4().hex
        options: dict[str, Any] = {**self.owner, "group_size": self.group_size, "split": "train"}
        pending: list[PendingScores | Score] = []
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            try:
                if isinstance(row, InvalidRollout):
                    raise row
                sample_id = f"{call} {i}" if self.group_size else None
                pending.append(self.manager.score_many([row], **options, sample_id=sample_id))
            except InvalidRollout as error:
                pending.append(without_reward(error, rules))
                if self.group_size and compares(self.manager.config):
                    # Its siblings would wait for it.
                    self.manager.close_groups(
                        [group_id_of(prompt)], absent=[f"{call} {i}"], **options
                    )
        scores = [
            one if isinstance(one, Score) else one.collect(self.timeout_s, rules)[0]
            for one in pending
        ]
        self.outages.count(scores)
        return scores


def _with_base_scores(
    rows: Sequence[Row],
    labels: Sequence[Any] | None,
    base_score: Callable[[str, str, Any], float],
) -> list[Row]:
    """Compute the base scores; a row fails if `base_score` raises, which OpenRLHF would hide."""
    return [
        row if isinstance(row, InvalidRollout) else _with_base_score(row, label, base_score)
        for row, label in zip(rows, labels or [None] * len(rows), strict=True)
    ]


def _with_base_score(
    rollout: Rollout, label: Any, base_score: Callable[[str, str, Any], float]
) -> Row:
    try:
        base = base_score(str(rollout.prompt), policy_text(rollout.response), label)
    except Exception as error:  # noqa: BLE001 - the user's function raises anything
        return InvalidRollout(f"base_score raised {error!r}; fix it")
    return replace(rollout, base_score=as_number(base))


@cache
def _configured() -> Callable[..., Answer]:
    return reward_function(load_config())


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    **_: Any,
) -> Answer:
    """Score rollouts with the configuration that `OYER_CONFIG` names."""
    return _configured()(queries, prompts, labels)
