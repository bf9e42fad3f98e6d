"""Rubrics: the text that tells a judge what to score, with a place for the rollout.

Only the place for the response is required:

    ---
    name: politeness
    language: en               # en or zh: the language of the generated parts
    scale: [1, 10]             # the scale that the text was written for
    reason_first: true         # false asks for the verdict alone
    levels: [rude, neutral, polite]            # worst to best, spread over the judge's scale
    criteria:
      - {name: tone, weight: 2, text: 'Is it polite?', choices: [never, mostly, always]}
    ---
    The system message. {criteria} {levels} {verdict} {low} {high}
    ---user---
    The user message. {rollout}, or {prompt} {tools} {reference} {response} separately.

- Without a `---user---` line the whole body is the user message and there is no system message.
- The rollout may be in the user message only; `{rollout}` is its parts under headings, without
  the tools and the reference if there are none. `{metadata.KEY}` is a value of its metadata.
- `reply: verdicts` asks for a verdict on each criterion in place of one score. Its criteria may have
  `points` and `required` (`config/criteria`), and a judge's `criteria` or a rollout's own replace
  them. They are shown behind the user message, with the form of the reply, and need no placeholder.
- `reply: comparison` is for group judges only: {rollout} holds all responses, and {verdict} the form of
  the reply.
- Criteria, levels and the verdict line are appended to the system message if the body has no
  placeholder for them.
"""

import functools
import hashlib
import re
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from oyer.config.criteria.criterion import Criterion, problem_of
from oyer.config.explaining import did_you_mean, explain
from oyer.config.rubrics.metadata import is_metadata
from oyer.config.rubrics.template import (
    PLACEHOLDER,
    ROLLOUT_PARTS,
    RubricTemplate,
    ScoreBand,
    render,
)
from oyer.protocol.errors import InvalidConfig

__all__ = [
    "BUILT_IN",
    "RubricTemplate",
    "ScoreBand",
    "asks_for_verdict",
    "parse",
    "render",
    "resolve",
    "rubric_hash",
]

BUILT_IN = (
    *("tool_call_zh", "tool_call_en", "reasoning_zh", "reasoning_en"),
    *("tool_call_criteria_zh", "tool_call_criteria_en"),
    *("reasoning_criteria_zh", "reasoning_criteria_en", "criteria_zh", "criteria_en"),
    *("listwise_zh", "listwise_en", "pairwise_zh", "pairwise_en"),
)
"""Rubrics that ship with the package, named by the kind of rollout and the language."""

_SYSTEM_PARTS = ("criteria", "levels", "verdict")
_KNOWN = frozenset({*ROLLOUT_PARTS, *_SYSTEM_PARTS, "rollout", "low", "high"})
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_USER_MARK = re.compile(r"^---user---[ \t]*$\n?", re.MULTILINE)


class _FrontMatter(BaseModel):
    """The keys between the two `---` lines."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str | None = None
    language: Literal["en", "zh"] = "en"
    scale: tuple[float, float] | None = None
    reply: Literal["score", "comparison"] = "score"
    reason_first: bool | None = None
    levels: tuple[str, ...] = ()
    criteria: tuple[ScoreBand, ...] = ()


class _VerdictsFrontMatter(BaseModel):
    """The keys of a rubric with `reply: verdicts`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str | None = None
    language: Literal["en", "zh"] = "en"
    reply: Literal["verdicts"]
    criteria: tuple[Criterion, ...] = ()


def resolve(rubric: str) -> str:
    """Turn a built-in name, or the text itself, into the text; no file is read.

    A text is returned unchanged, so resolving twice changes nothing.

    Raises:
        InvalidConfig: there is no such name, or the text cannot serve as a rubric.
    """
    return checked(_text_of(rubric))


def checked(text: str) -> str:
    """Return a rubric's text with `\\n` line ends.

    Raises:
        InvalidConfig: the text cannot serve as a rubric.
    """
    text = text.replace("\r\n", "\n")
    _check_sentinels(parse(text))
    return text


@functools.lru_cache(maxsize=64)
def parse(text: str) -> RubricTemplate:
    """Parse a rubric's text into its parts; cached, since all chunks use the same few rubrics.

    Raises:
        InvalidConfig: the front matter or a placeholder cannot be used.
    """
    front = _FRONT_MATTER.match(text)
    fields = _front_fields(front.group(1)) if front else _FrontMatter()
    body = text[front.end() :] if front else text
    head, *rest = _USER_MARK.split(body)
    if len(rest) > 1:
        raise InvalidConfig("rubric: has more than one `---user---` line; keep one")
    system, user = (head, rest[0]) if rest else ("", head)
    verdicts = isinstance(fields, _VerdictsFrontMatter)
    known = frozenset({*ROLLOUT_PARTS, "rollout"}) if verdicts else _KNOWN
    _check_placeholders(system, user, known)
    if isinstance(fields, _VerdictsFrontMatter):
        return RubricTemplate(
            system=system.strip(),
            user=user.strip(),
            name=fields.name,
            language=fields.language,
            verdicts_on=fields.criteria,
            reply="verdicts",
            places=frozenset(_names_in(user)),
        )
    named = _names_in(system) | _names_in(user)
    missing = [part for part in _to_add(fields) if part not in named]
    system = "\n\n".join([system.strip(), *(f"{{{part}}}" for part in missing)]).strip()
    return RubricTemplate(
        system=system,
        user=user.strip(),
        name=fields.name,
        language=fields.language,
        scale=fields.scale,
        reason_first=fields.reason_first is not False,
        reply=fields.reply,
        levels=fields.levels,
        criteria=fields.criteria,
        places=frozenset(_names_in(user)),
    )


def _check_placeholders(system: str, user: str, known: frozenset[str]) -> None:
    named = _names_in(system) | _names_in(user)
    if unknown := sorted(name for name in named - known if not is_metadata(name)):
        raise InvalidConfig(
            f"rubric: unknown placeholder {{{'}, {'.join(unknown)}}};"
            f" the known ones are {{{'}, {'.join([*sorted(known), 'metadata.KEY'])}}}"
        )
    of_rollout = {*ROLLOUT_PARTS, "rollout"}
    if misplaced := sorted(n for n in _names_in(system) if n in of_rollout or is_metadata(n)):
        raise InvalidConfig(
            f"rubric: {{{'}, {'.join(misplaced)}}} is in the system message;"
            " move it below the `---user---` line, so that a rollout cannot act as instructions"
        )
    if not _names_in(user) & {"response", "rollout"}:
        raise InvalidConfig(
            "rubric: has no place for the response; add {response} to the user message"
        )


def asks_for_verdict(rubric: RubricTemplate) -> bool:
    """Whether the messages ask for a score or verdicts; else the text itself must ask for a score."""
    if rubric.reply == "verdicts":
        return True
    return "verdict" in _names_in(rubric.system) | _names_in(rubric.user)


@functools.lru_cache(maxsize=64)
def rubric_hash(text: str) -> str:
    """Return the sha256 of a rubric's text in hex, as in cache keys and in the database."""
    return hashlib.sha256(text.encode()).hexdigest()


def names_file(rubric: str) -> bool:
    """Whether a `rubric` setting is a path to a `.md` or `.txt` file, rather than a name or a text."""
    return not re.search(r"[{\n\0]", rubric) and rubric.lower().endswith((".md", ".txt"))


def _text_of(rubric: str) -> str:
    if rubric in BUILT_IN:
        return _built_in(rubric)
    if names_file(rubric):
        raise InvalidConfig(
            "rubric: is a file path, which only `load_config` and `RewardManager` read;"
            " give the file's text"
        )
    if re.search(r"[{\s]", rubric.strip()):
        return rubric
    raise InvalidConfig(
        f"rubric: {rubric!r} is neither a built-in rubric ({', '.join(BUILT_IN)}), nor a .md or .txt file,"
        f" nor a text with a place for the {{response}}; {did_you_mean(rubric, BUILT_IN)}".rstrip(
            "; "
        )
    )


@functools.cache
def _built_in(name: str) -> str:
    return resources.files("oyer.config.rubrics").joinpath(f"{name}.md").read_text("utf-8")


def _front_fields(block: str) -> _FrontMatter | _VerdictsFrontMatter:
    from oyer.config.yaml_text import read_yaml

    try:
        # The added line stands for the `---`, so that errors count lines of the rubric.
        raw = read_yaml("\n" + block)
    except ValueError as error:
        raise InvalidConfig(f"rubric: the front matter is not YAML: {error}") from error
    verdicts = isinstance(raw, dict) and raw.get("reply") == "verdicts"
    model: type[_FrontMatter | _VerdictsFrontMatter]
    model = _VerdictsFrontMatter if verdicts else _FrontMatter
    try:
        fields = model.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise InvalidConfig(
            f"rubric: the front matter cannot be used: {explain(error, model)}"
        ) from error
    if isinstance(fields, _VerdictsFrontMatter):
        problem = problem_of(fields.criteria, "weighted")
        if problem is not None:
            raise InvalidConfig(f"rubric: the front matter cannot be used: criteria{problem}")
    return fields


def _names_in(template: str) -> set[str]:
    names = set()
    for match in PLACEHOLDER.finditer(template):
        if match.group(1):
            raise InvalidConfig(
                f"rubric: {match.group()!r} has doubled braces; write {{{match.group(2)}}}"
            )
        if match.group(2):
            names.add(match.group(2))
    return names


def _to_add(fields: _FrontMatter) -> list[str]:
    """Return the parts that the front matter asks for."""
    wanted = {
        "criteria": bool(fields.criteria),
        "levels": bool(fields.levels),
        "verdict": fields.reason_first is not None,
    }
    return [part for part in _SYSTEM_PARTS if wanted[part]]


def _check_sentinels(rubric: RubricTemplate) -> None:
    """Render once and check that each part appears, so that no template drops one silently."""
    parts = (*ROLLOUT_PARTS, *rubric.metadata_places)
    sentinels = {part: f"<<{part} sentinel>>" for part in parts}
    scale = rubric.scale or (1.0, 10.0)
    messages = render(
        rubric,
        scale=scale,
        prompt=sentinels["prompt"],
        response=sentinels["response"],
        reference=sentinels["reference"],
        tools=[{"name": sentinels["tools"]}],
        metadata={place: sentinels[place] for place in rubric.metadata_places},
    )
    shown = "\n".join(message["content"] for message in messages)
    named = _names_in(rubric.user)
    expected = ROLLOUT_PARTS if "rollout" in named else [part for part in parts if part in named]
    for part in {*expected, "response"}:
        if sentinels[part] not in shown:
            raise InvalidConfig(f"rubric: the {part} does not reach the judge; check {{{part}}}")
