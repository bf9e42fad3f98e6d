"""The inputs of a batch's length methods, as numpy arrays by the names of `Inputs`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oyer.config.length import ThinkConfig
from oyer.config.reward import LengthConfig
from oyer.protocol.batch import Columns
from oyer.protocol.content import policy_text, policy_turns
from oyer.protocol.partial_results import Floats, LengthResult
from oyer.protocol.rollout import Message
from oyer.protocol.token_ids import TokenIds
from oyer.tasks.rewards.compose import ComposedRewards, RewardInputs, compose, meets

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Response = str | list[Message]

INCOMPLETE = "incomplete"


def length_statuses(items: Sequence[LengthConfig], columns: Columns) -> list[str | None]:
    """Return `incomplete` for rows that are compared without some rollouts of their group."""
    compares = any("group_ids" in item.needs for item in items)
    incomplete = set(columns.incomplete) if compares else ()
    return [INCOMPLETE if i in incomplete else None for i in range(len(columns.truncated))]


@dataclass(frozen=True, kw_only=True)
class LengthInputs:
    """The columns of one batch, `[N]` each; texts and token ids are read on first use."""

    rewards: RewardInputs
    """Without judges if the length task runs beside the judge tasks."""
    read_responses: Callable[[], Sequence[Response]]
    read_token_ids: Callable[[], TokenIds | None]
    tokenizer: str | None

    @property
    def columns(self) -> Columns:
        """The batch's columns."""
        return self.rewards.columns

    def __len__(self) -> int:
        return len(self.columns.truncated)

    @cached_property
    def responses(self) -> Sequence[Response]:
        """The responses, texts or messages."""
        return self.read_responses()

    @cached_property
    def texts(self) -> Sequence[str]:
        """The policy's own words in the responses."""
        return [policy_text(response) for response in self.responses]

    @cached_property
    def token_ids(self) -> TokenIds | None:
        """The token ids; None if a row has none."""
        return self.read_token_ids()

    @cached_property
    def truncated(self) -> Flags:
        """Whether generation hit its limit."""
        return np.array(self.columns.truncated, dtype=bool)

    @cached_property
    def group_ids(self) -> Counts:
        """The prompt's number."""
        numbers = {uid: i for i, uid in enumerate(dict.fromkeys(self.columns.group_ids))}
        return np.array([numbers[uid] for uid in self.columns.group_ids], dtype=np.int64)

    @cached_property
    def raw(self) -> ComposedRewards:
        """The rewards without gate and length terms."""
        ungated = self.rewards.rules.model_copy(update={"zero_unless": None})
        return compose(replace(self.rewards, rules=ungated))

    def composed(self, terms: LengthResult) -> ComposedRewards:
        """Compose the batch with gate and length terms."""
        return compose(self.rewards, terms)

    def of(self, item: LengthConfig) -> tuple[dict[str, Any], Flags]:
        """Return a method's inputs, and the rows of which an input is missing."""
        unknown = np.zeros(len(self), dtype=bool)
        found: dict[str, Any] = {
            "group_ids": self.group_ids,
            "truncated": self.truncated,
            "quality": self.raw.scores[item.quality],
            "base_reward": self.replaced(item),
        }
        if item.needs_score:
            unknown |= np.isnan(found["quality"])
        correct = self._correct(item)
        if item.condition is not None or not np.isnan(correct).any():
            unknown |= np.isnan(correct)
            found["correct"] = correct > 0
        for name, key in item.metadata_keys.items():
            found[name] = np.array(self.columns.metadata[key], dtype=float)
        if item.spans:
            think, answer, split = self._spans(item)
            unknown |= ~split
            found = {"think_lengths": think, "answer_lengths": answer, **found}
        if "lengths" in item.takes:
            lengths = found.get(f"{item.part}_lengths")
            found["lengths"] = self._lengths(item) if lengths is None else lengths
        if item.takes_token_ids and self.token_ids is not None:
            found["token_ids"] = self.token_ids
        elif any("texts" in need.split("|") for need in item.needs):
            found["texts"] = self.texts
        return {name: found[name] for name in found.keys() & item.takes}, unknown

    def replaced(self, item: LengthConfig) -> Floats:
        """The reward that a method replaces if it computes the whole reward."""
        whole = item.quality == "unshaped_reward"
        return self.raw.unshaped_rewards if whole else self.raw.terms["base_score"]

    def _correct(self, item: LengthConfig) -> Floats:
        if item.condition is None:
            correct = np.array(self.columns.correctness, dtype=float)
        else:
            correct = meets(item.condition, self.raw.scores, self.raw.statuses)
        if item.truncated == "wrong":
            correct[self.truncated] = 0.0
        return correct

    def _lengths(self, item: LengthConfig) -> Counts:
        if item.unit != "tokens":
            return self._sizes(self.texts, item)
        lengths = self.columns.response_tokens
        open_rows = [i for i, n in enumerate(lengths) if n is None]
        if not open_rows:
            return np.array(lengths, dtype=np.int64)
        counted = np.array([n or 0 for n in lengths], dtype=np.int64)
        counted[open_rows] = self._sizes([self.texts[i] for i in open_rows], item)
        return counted

    def _sizes(self, texts: Sequence[str], item: LengthConfig) -> Counts:
        if item.unit == "chars":
            return np.array([len(text) for text in texts], dtype=np.int64)
        if item.unit == "bytes":
            return np.array([len(text.encode()) for text in texts], dtype=np.int64)
        if self.tokenizer is None:
            return np.zeros(len(texts), dtype=np.int64)
        from oyer.tasks.lengths.tokens import count_tokens

        return np.array(count_tokens(texts, self.tokenizer), dtype=np.int64)

    def _spans(self, item: LengthConfig) -> tuple[Counts, Counts, Flags]:
        """Return lengths of thinking and answer, and whether each row could be split."""
        think = item.think
        ids = self.token_ids
        if item.unit == "tokens" and think.close_ids and ids is not None:
            return _split_ids(ids, item)
        parts = [think_and_answer(response, think) for response in self.responses]
        before = [thought for thought, _, _ in parts]
        after = [answer for _, answer, _ in parts]
        closed = np.array([ended for _, _, ended in parts], dtype=bool)
        if think.missing_close == "answer":
            for i in np.flatnonzero(~closed).tolist():
                before[i], after[i] = "", self.texts[i]
        split = closed | (think.missing_close != "invalid")
        return self._sizes(before, item), self._sizes(after, item), split


def think_and_answer(response: Response, think: ThinkConfig) -> tuple[str, str, bool]:
    """Split a response into thinking and answer, and say whether the thinking was closed.

    Each message of the policy is split on its own. Of several, one without the closing marker is
    answer, unless it opens thinking.
    """
    thoughts, answers, closed = [], [], False
    turns = policy_turns(response, (think.open, think.close))
    for turn in turns:
        thought, close, answer = turn.partition(think.close)
        opened = bool(think.open) and turn.lstrip().startswith(think.open)
        if not close and len(turns) > 1 and not opened:
            thought, answer = "", turn
        thoughts.append(thought.lstrip().removeprefix(think.open))
        answers.append(answer)
        closed |= bool(close)
    if not closed:
        return "\n".join(turns).lstrip().removeprefix(think.open), "", False
    return "\n".join(filter(None, thoughts)), "\n".join(filter(None, answers)), True


def _split_ids(ids: TokenIds, item: LengthConfig) -> tuple[Counts, Counts, Flags]:
    think = item.think
    close = ids.first(think.close_ids)
    closed = close >= 0
    opening = len(think.open_ids) * (ids.first(think.open_ids) == 0) if think.open_ids else 0
    whole = ids.lengths
    thought = np.where(closed, close, whole) - opening
    answered = np.where(closed, whole - close - len(think.close_ids), 0)
    if think.missing_close == "answer":
        thought, answered = np.where(closed, thought, 0), np.where(closed, answered, whole)
    return thought, answered, closed | (think.missing_close != "invalid")
