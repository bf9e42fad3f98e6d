"""Configuration of length methods: parameters, inputs, and the names of their terms."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from oyer.config.condition import SOURCE, Condition, needs_judge
from oyer.config.explaining import did_you_mean, suggestion_or_known
from oyer.config.judge import JudgeConfig
from oyer.config.length_methods import catalogue
from oyer.config.length_methods.method import Kind, Method
from oyer.config.section import Section

COUNTS = frozenset({"target_lengths", "total_tokens", "turns"})
"""Metadata columns of whole numbers from 0."""

SPANS = frozenset({"think_lengths", "answer_lengths"})
"""Columns of lengths of a part of the response, counted unless metadata holds them."""

FLAGS = frozenset({"no_think", "repetitive"})
"""Metadata columns of true or false."""

REALS = frozenset({"history_lengths", "reference_lengths", "reference_accuracy", "advantages"})
"""Metadata columns of numbers; a missing history means that there is none yet."""

METADATA = COUNTS | SPANS | FLAGS | REALS
"""Fields of `Inputs` that a rollout's metadata can give."""

TERM_NAMES = {"median_band": "length_penalty"}
"""Term names that differ from the method's name, as in the replaced system."""

_TAKEN = frozenset({"base_score", "judge", "gate"})
"""Names of other terms, as `judge:…` is."""

_PREFIX = "metadata."


class ThinkConfig(Section):
    """Where a response's thinking ends and its answer begins: at the first closing marker.

    The markers themselves belong to neither.
    """

    open: str = "<think>"
    """Opening marker, taken off the beginning of the thinking; it may be part of the prompt."""
    close: str = Field(default="</think>", min_length=1)
    """Closing marker."""
    open_ids: tuple[int, ...] = ()
    """Token ids of the opening marker."""
    close_ids: tuple[int, ...] = ()
    """Token ids of the closing marker; with them, token ids are split without a tokenizer."""
    missing_close: Literal["think", "answer", "invalid"] = "think"
    """A response without closing marker: `think`, all of it is thinking; `answer`, all of it is answer;
    `invalid`, the row has no reward."""


class LengthConfig(Section):
    """A length method, its parameters and its inputs.

    A key that is also a parameter of the method sets the parameter; `oyer length list` shows them.
    """

    method: str
    """A method of the catalogue, e.g. `median_band`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The method's parameters with defaults filled in; they may also be given beside `method`."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,80}$")
    """Names the term; left out, the method's name, and `length_penalty` for `median_band`."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Multiplies what the method adds; methods that multiply, select or give advantages take none."""
    unit: Literal["tokens", "chars", "bytes"] = "tokens"
    """What lengths are counted in: `tokens` of the policy, `chars`, or `bytes` of UTF-8."""
    part: Literal["response", "think", "answer"] = "response"
    """Which part counts as the length: `response`, all of it; `think` or `answer`, see `think`."""
    think: ThinkConfig = Field(default_factory=ThinkConfig)
    """How thinking and answer are separated."""
    correct: Annotated[str | None, AfterValidator(lambda text: text and _checked(text))] = None
    """What counts as correct, e.g. `judge >= 6`; left out, `correct` of the rollout, or a positive
    base score. A rollout that is not judged for its base score is wrong."""
    quality: Annotated[str, AfterValidator(lambda text: _source(text))] = "base_score"
    """The score that the method uses: `base_score`, `judge`, `judge:<name>`, or
    `unshaped_reward`, which is base score and weighted judges. A rollout that is not judged for
    its base score has the lowest of the judge's scale; one whose score is missing under the
    failure policy takes no part."""
    truncated: Literal["as_is", "mask", "wrong"] = "as_is"
    """A truncated rollout: `as_is`, like any other; `mask`, left out of training and statistics;
    `wrong`, counted as wrong, and left out of length statistics if the method does not use
    correctness."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Inputs by metadata key, e.g. `{target_lengths: metadata.target_tokens}`; other
    inputs are read from the metadata key of their own name."""

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, raw: Any) -> Any:
        """Separate the method's parameters from the common keys, and check them."""
        if not isinstance(raw, dict) or not isinstance(raw.get("method"), str):
            return raw
        fields = dict(raw)
        method = catalogue.find(fields["method"])
        if "params" not in fields:
            cls._refuse_unknown(fields, method)
            own = method.params.model_fields.keys() | (fields.keys() - cls.model_fields.keys())
            fields["params"] = {name: fields.pop(name) for name in own & fields.keys()}
        return {**fields, "params": catalogue.resolve(method.name, fields["params"])}

    @classmethod
    def _refuse_unknown(cls, fields: Iterable[str], method: Method) -> None:
        """Refuse a name that is neither a common key nor a parameter of the method."""
        for name in fields:
            if name not in cls.model_fields and name not in method.params.model_fields:
                own = ", ".join(method.params.model_fields) or "none"
                hint = did_you_mean(str(name), [*cls.model_fields, *method.params.model_fields])
                raise ValueError(
                    f"{name}: unknown key; {hint or 'check the spelling'}"
                    f" (parameters of {method.name}: {own})"
                )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        taken = self.takes
        if self.kind == "per_token":
            raise ValueError(
                f"method: {self.method} gives a value to each token, and a batch carries one"
                " reward a rollout; choose `repetition`, or call oyer.tasks.lengths.compute where"
                " the loss is computed"
            )
        if self.weight != 1 and self.kind not in ("add", "total"):
            raise ValueError(
                f"weight: {self.method} has values of kind {self.kind!r}, which take no weight"
            )
        if self.quality != "base_score" and not taken & {"quality", "base_reward"}:
            raise ValueError(f"quality: {self.method} does not use a score; leave it out")
        if self.quality.startswith("judge") and "quality" not in taken:
            raise ValueError(
                f"quality: {self.method} shapes the whole reward: `base_score` or `unshaped_reward`"
            )
        if self.correct is not None and "correct" not in taken:
            raise ValueError(f"correct: {self.method} does not use correctness; leave it out")
        self._check_columns(taken)
        return self

    def _check_columns(self, taken: frozenset[str]) -> None:
        for name, place in self.columns.items():
            if name not in METADATA & taken:
                fitting = ", ".join(sorted(METADATA & taken)) or "none"
                raise ValueError(
                    f"columns.{name}: is not an input of {self.method} that metadata can give"
                    f" (inputs: {fitting})"
                )
            if not place.removeprefix(_PREFIX) or not place.startswith(_PREFIX):
                raise ValueError(
                    f"columns.{name}: must be `metadata.<key>`, e.g. metadata.target_tokens"
                )

    @property
    def kind(self) -> Kind:
        """The kind of the method's values."""
        return catalogue.find(self.method).kind

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Inputs` that it requires; see `Method.needs`."""
        return catalogue.needs(self.method, self.params)

    @property
    def takes(self) -> frozenset[str]:
        """Fields of `Inputs` that it uses, required or not."""
        bounded = {need.partition(">=")[0] for need in self.needs if ">=" in need}
        return catalogue.find(self.method).columns | bounded

    @property
    def condition(self) -> Condition | None:
        """The condition in `correct`."""
        return None if self.correct is None else Condition.parse(self.correct)

    @property
    def aggregates(self) -> bool:
        """Whether its inputs are the other terms of the batch."""
        return "components" in self.needs

    @property
    def metadata_keys(self) -> dict[str, str]:
        """The metadata key of each input, by field of `Inputs`."""
        named = {name: place.removeprefix(_PREFIX) for name, place in self.columns.items()}
        needed = self.needs & (METADATA - SPANS)
        return {**{name: name for name in needed}, **named}

    @property
    def spans(self) -> frozenset[str]:
        """Lengths of response parts to count, as fields of `Inputs`."""
        needed = {f"{self.part}_lengths"} if "lengths" in self.needs else set()
        return ((self.needs | needed) & SPANS) - self.columns.keys()

    @property
    def takes_token_ids(self) -> bool:
        """Whether it uses token ids."""
        by_ids = bool(self.spans) and self.unit == "tokens" and bool(self.think.close_ids)
        return by_ids or any("token_ids" in need.split("|") for need in self.needs)

    @property
    def takes_truncated(self) -> bool:
        """Whether it treats rollouts that hit the length limit in their own way."""
        checks = self.params.get("check_eos", True) and "truncated" in self.takes
        return self.truncated != "as_is" or bool(checks)

    @property
    def needs_score(self) -> bool:
        """Whether it requires the score that `quality` names."""
        scored = {"quality", "quality>=0", "base_reward"} & self.needs
        return bool(scored) or (
            "advantages|quality" in self.needs and "advantages" not in self.columns
        )

    @property
    def scores(self) -> dict[str, str]:
        """The scores that it uses, by the configuration key that names them."""
        condition = self.condition
        return {"quality": self.quality, **({"correct": condition.source} if condition else {})}


def _checked(text: str) -> str:
    Condition.parse(text)
    return text


def _source(text: str) -> str:
    if not re.fullmatch(SOURCE, text):
        hint = did_you_mean(text, ("base_score", "judge", "unshaped_reward"))
        raise ValueError(
            f"must be `base_score`, `judge`, `judge:<name>` or `unshaped_reward`; {hint}".rstrip(
                "; "
            )
        )
    return text


def term_names(items: Iterable[LengthConfig]) -> list[str]:
    """Return the name of each method's term; a method's second term is `…_2`."""
    names: list[str] = []
    used: dict[str, int] = {}
    for item in items:
        name = item.name or TERM_NAMES.get(item.method, item.method)
        used[name] = used.get(name, 0) + 1
        names.append(name if item.name or used[name] == 1 else f"{name}_{used[name]}")
    return names


def check_lengths(items: Sequence[LengthConfig], judges: Sequence[JudgeConfig]) -> None:
    """Check the length methods of a configuration against each other and against the judges.

    Raises:
        ValueError: names the key and the fix.
    """
    names = term_names(items)
    by_name = {judge.name: judge for judge in judges}
    for i, item in enumerate(items):
        if names[i] in _TAKEN or names[i] in names[:i]:
            raise ValueError(f"length[{i}].name: {names[i]!r} is taken; give the term another one")
        for key, source in item.scores.items():
            check_source(f"length[{i}].{key}", source, by_name)
        if item.quality.startswith("judge") and "quality>=0" in item.needs:
            _check_positive(i, item, by_name)
    totals = [i for i, item in enumerate(items) if item.kind == "total"]
    if len(totals) > 1:
        raise ValueError(
            f"length[{totals[1]}].method: {items[totals[1]].method} and {items[totals[0]].method}"
            " each make the whole reward; choose one"
        )


def check_source(key: str, source: str, judges: Mapping[str, JudgeConfig]) -> None:
    """Refuse a score of an unknown judge.

    Raises:
        ValueError: names the key and the known judges.
    """
    kind, _, name = source.partition(":")
    if kind == "judge" and not judges:
        raise ValueError(f"{key}: {source!r} needs a judge; add one under `judges`")
    if name and name not in judges:
        raise ValueError(f"{key}: no judge is called {name!r}; {suggestion_or_known(name, judges)}")


def _check_positive(i: int, item: LengthConfig, judges: Mapping[str, JudgeConfig]) -> None:
    name = item.quality.partition(":")[2]
    for judge in [judges[name]] if name else judges.values():
        if judge.counted_scale[0] < 0:
            raise ValueError(
                f"length[{i}].quality: {item.method} needs scores of at least 0, and the scale of"
                f" judge {judge.name!r} begins at {judge.counted_scale[0]:g}; set `normalize: true`"
                " on the judge, or choose an additive method"
            )


def follows_judges(items: Iterable[LengthConfig], judges: Sequence[JudgeConfig]) -> bool:
    """Whether a method needs judge scores, so that lengths are computed after the judges."""
    return bool(judges) and any(
        item.aggregates or any(needs_judge(source) for source in item.scores.values())
        for item in items
    )
