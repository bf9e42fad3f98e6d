"""Graders of hosted reinforcement fine-tuning: an endpoint grader, and OpenAI's grader JSON.

`POST /grade` takes `{sample, item}` and answers `{score}`, as Azure's endpoint grader does.
`POST /graders/run` takes `{grader, item, model_sample}` and answers `{reward, sub_rewards, …}`, as
OpenAI's `/fine_tuning/alpha/graders/run` does. A grader of the type `score_model` is a configured judge
with its own rubric; `python` and `label_model` are refused.
"""

import json
import math
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from oyer.config.judge import JudgeConfig
from oyer.config.reward import RewardConfig
from oyer.manager import InvalidInput, RewardManager, Rollout
from oyer.manager.adapters import row_metadata
from oyer.manager.score import Score
from oyer.protocol.content import as_messages, content_text, reference_text
from oyer.server.context import RequestOrigin
from oyer.server.formula import evaluate, names_in
from oyer.server.idempotency import Reply
from oyer.server.routes import Scoring
from oyer.server.schemas import read_json

_PROMPTS = ("messages", "prompt", "question", "input", "query")
_REFERENCES = ("reference_answer", "reference", "answer", "ground_truth", "label", "expected")
"""Keys of an item, by precedence."""

_PLACEHOLDER = re.compile(r"\{\{\s*(item|sample)((?:\.\w+|\[\d+\])*)\s*\}\}")


class _Body(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class GradeRequest(_Body):
    """`POST /grade`."""

    sample: dict[str, Any] | str
    """The model's output: text, or an object with `output_text`, or with `messages` or `output`."""
    item: dict[str, Any] = Field(default_factory=dict)
    """The row of the data set: the prompt (`messages`, `prompt`, `question`, …) and the reference answer
    (`reference_answer`, `reference`, `answer`, …)."""


class GradeAnswer(_Body):
    """The answer of `/grade`."""

    score: float
    components: dict[str, float]
    """The score of each judge and the value of each length term, by name."""


class RunRequest(_Body):
    """`POST /graders/run`, as OpenAI's API takes it."""

    grader: dict[str, Any]
    """Of the type `multi`, `score_model`, `string_check` or `text_similarity`."""
    item: dict[str, Any] = Field(default_factory=dict)
    model_sample: str = ""


class RunAnswer(_Body):
    """The answer of `/graders/run`."""

    reward: float
    sub_rewards: dict[str, float]
    """Of each grader, by its key."""
    metadata: dict[str, Any]


class Graders:
    """Answers the graders' protocols through the routes' scoring."""

    def __init__(self, manager: RewardManager, scoring: Scoring) -> None:
        self._config = manager.config
        self._judges = {judge.name: judge for judge in manager.config.judges}
        self._scoring = scoring

    async def grade(self, body: bytes, context: RequestOrigin) -> Reply:
        """Score a sample; 503 if its score is missing, so that the host asks again."""
        request = GradeRequest.model_validate(read_json(body))

        def format_score(score: Score) -> Any:
            known = {k: v for k, v in score.components.items() if math.isfinite(v)}
            return {"score": score.reward, "components": known}

        return await self._scored(
            _rollout(request.sample, request.item, self._config), context, format_score
        )

    async def run(self, body: bytes, context: RequestOrigin) -> Reply:
        """Run a grader."""
        request = RunRequest.model_validate(read_json(body))
        graders = _parts(request.grader)
        sample = {"output_text": request.model_sample, "output_json": _json(request.model_sample)}
        namespaces = {"item": request.item, "sample": sample}
        fixed = {
            key: _checked(grader, namespaces)
            for key, grader in graders.items()
            if grader.get("type") != "score_model"
        }
        judged = {key: self._judge(one) for key, one in graders.items() if key not in fixed}

        def format_score(score: Score | None) -> Any:
            found = dict(fixed)
            for key, judge in judged.items():
                value = math.nan if score is None else score.components.get(judge.name, math.nan)
                found[key] = _in_range(value, judge, graders[key])
            return _run_answer(request.grader, found)

        if not judged:
            return Reply(content=format_score(None))
        return await self._scored(
            _rollout(sample, request.item, self._config), context, format_score
        )

    async def _scored(self, rollout: Rollout, context: RequestOrigin, format_score: Any) -> Reply:
        def format_any(score: Score) -> Any:
            # None becomes a 503 below; a number would be trained on.
            return format_score(score) if score.trainable else None

        reply = await self._scoring.grade(rollout, context, format_any)
        if reply.content is not None:
            return reply
        late = "no judge has scored the sample; try again"
        return Reply(content={"error": late}, status_code=503, complete=False)

    def _judge(self, grader: Mapping[str, Any]) -> JudgeConfig:
        name, model = grader.get("name"), grader.get("model")
        found = self._judges.get(str(name)) or next(
            (judge for judge in self._judges.values() if judge.model == model), None
        )
        if found is None:
            raise InvalidInput(
                f"grader: no judge is called {name!r} or asks the model {model!r}; name one of"
                f" {', '.join(self._judges)}"
            )
        return found


def _parts(grader: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the graders of a multi grader by key, or the single one.

    Raises:
        InvalidInput: it is malformed.
    """
    if grader.get("type") != "multi":
        return {str(grader.get("name") or "grader"): dict(grader)}
    parts, formula = grader.get("graders"), grader.get("calculate_output")
    if not isinstance(parts, Mapping) or not parts or not isinstance(formula, str):
        raise InvalidInput("grader: a multi grader needs `graders` by name and `calculate_output`")
    unknown = names_in(formula) - parts.keys()
    if unknown:
        raise InvalidInput(
            f"grader.calculate_output: {', '.join(sorted(unknown))} is not in `graders`; add it"
        )
    if not all(isinstance(one, Mapping) for one in parts.values()):
        raise InvalidInput("grader.graders: each must be an object")
    return {str(key): dict(one) for key, one in parts.items()}


def _run_answer(grader: Mapping[str, Any], found: Mapping[str, float]) -> dict[str, Any]:
    multi = grader.get("type") == "multi"
    reward = (
        evaluate(str(grader["calculate_output"]), found) if multi else next(iter(found.values()))
    )
    meta = {"name": grader.get("name"), "type": grader.get("type"), "scores": dict(found)}
    return {"reward": reward, "sub_rewards": dict(found), "metadata": meta}


def _checked(grader: Mapping[str, Any], namespaces: Mapping[str, Any]) -> float:
    """Run a grader that needs no model.

    Raises:
        InvalidInput: its type or an option of it is unknown.
    """
    kind = grader.get("type")
    if kind not in ("string_check", "text_similarity"):
        raise InvalidInput(
            f"grader.type: is {kind!r}; Oyer runs multi, score_model, string_check and"
            " text_similarity: compute others in the trainer"
        )
    text, reference = (_rendered(grader.get(key), namespaces) for key in ("input", "reference"))
    if kind == "string_check":
        operation = str(grader.get("operation"))
        checks = {
            "eq": text == reference,
            "ne": text != reference,
            "like": reference in text,
            "ilike": reference.lower() in text.lower(),
        }
        if operation not in checks:
            raise InvalidInput(f"grader.operation: is {operation!r}; give eq, ne, like or ilike")
        return float(checks[operation])
    metric = grader.get("evaluation_metric", "fuzzy_match")
    if metric != "fuzzy_match":
        raise InvalidInput(f"grader.evaluation_metric: is {metric!r}; Oyer knows fuzzy_match")
    return SequenceMatcher(None, text, reference, autojunk=False).ratio()


def _in_range(value: float, judge: JudgeConfig, grader: Mapping[str, Any]) -> float:
    """Map a judge's score from its scale to the grader's range, 0 to 1 by default.

    Raises:
        InvalidInput: the range is not two numbers.
    """
    low, high = judge.counted_scale
    try:
        start, end = (float(one) for one in grader.get("range") or (0, 1))
    except (TypeError, ValueError) as error:
        raise InvalidInput("grader.range: must be two numbers") from error
    return start + (end - start) * (value - low) / (high - low)


def _rollout(
    sample: Mapping[str, Any] | str, item: Mapping[str, Any], config: RewardConfig
) -> Rollout:
    prompt = next((item[key] for key in _PROMPTS if item.get(key)), "")
    references = (reference_text(item.get(key)) for key in _REFERENCES)
    return Rollout(
        prompt=as_messages(prompt),
        response=_response(sample),
        reference=next((one for one in references if one is not None), None),
        tools=item.get("tools") if isinstance(item.get("tools"), list) else None,
        base_score=item.get("base_score"),
        metadata=row_metadata(item, config),
    )


def _response(sample: Mapping[str, Any] | str) -> Any:
    if isinstance(sample, str):
        return sample
    for key in ("messages", "output", "output_text", "response", "text"):
        if sample.get(key):
            return as_messages(sample[key])
    choices = sample.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return as_messages([choices[0].get("message") or {}])
    raise InvalidInput("sample: has no `output_text`; send the model's output")


def _rendered(template: Any, namespaces: Mapping[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        one: Any = namespaces[found[1]]
        for key in re.findall(r"\w+", found[2]):
            if isinstance(one, list) and key.isdecimal() and int(key) < len(one):
                one = one[int(key)]
            elif isinstance(one, Mapping) and key in one:
                one = one[key]
            else:
                raise InvalidInput(f"grader: {found[0]} is not in the request")
        return _text(one)

    return _PLACEHOLDER.sub(
        value, template if isinstance(template, str) else content_text(template)
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
