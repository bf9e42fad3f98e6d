"""The rollouts of a group as a judge is shown them: distinct responses in a random order; pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oyer.config import rubric as rubrics
from oyer.config.judge import JudgeConfig
from oyer.config.rubrics.metadata import MissingMetadata, metadata_texts
from oyer.config.rubrics.template import Responses, TranscriptPart
from oyer.protocol.images import images_in
from oyer.protocol.rollout import Message, Rollout
from oyer.tasks.judging.group_judges.schedule import shuffled
from oyer.tasks.judging.group_judges.wording import reply_format
from oyer.tasks.judging.views import ShownRollout, ViewSettings, images_problem, selected


@dataclass(frozen=True, slots=True)
class Shown:
    """One response as shown, and the rollouts that have it."""

    response: str | Sequence[TranscriptPart]
    chars: int
    truncated: bool
    indices: tuple[int, ...] = ()
    """In the batch, ascending."""


@dataclass(frozen=True, slots=True)
class Members:
    """The rollouts of a group that are to be compared."""

    rollout: Rollout
    """One of them, for the prompt, the reference and the tools, which they share."""
    shown: Sequence[Shown]
    """Distinct responses, in the order shown."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The texts for the rubric's placeholders of metadata, which they share."""

    @property
    def indices(self) -> list[int]:
        """Of all rollouts, in the batch."""
        return [index for one in self.shown for index in one.indices]

    def messages(self, judge: JudgeConfig, positions: Sequence[int]) -> list[Message]:
        """Render the request that shows some of the responses, as responses 1, 2 …."""
        return render_group(
            rubrics.parse(judge.rubric),
            self.rollout,
            [self.shown[position] for position in positions],
            scale=judge.scale,
            pairs=judge.compares_pairs,
            metadata=self.metadata,
        )


def render_group(
    rubric: rubrics.RubricTemplate,
    context: ShownRollout | Rollout,
    shown: Sequence["Shown"],
    *,
    scale: tuple[float, float],
    pairs: bool,
    metadata: Mapping[str, str],
) -> list[Message]:
    """Render a rubric with responses of one group.

    Args:
        context: has their prompt, reference and tools.
    """
    return rubrics.render(
        rubric,
        prompt=context.prompt,
        response=Responses([one.response for one in shown]),
        reference=context.reference,
        tools=context.tools,
        scale=scale,
        cut=any(one.truncated for one in shown),
        verdict=reply_format(rubric.language, pairs=pairs, n=len(shown), scale=scale),
        metadata=metadata,
    )


def members_of(rollouts: Mapping[int, Rollout], judge: JudgeConfig, sample: int) -> Members:
    """Return a group's responses, without repetitions, in the order in which a sample shows them.

    Args:
        rollouts: by index in the batch, with one prompt (see `why_not_comparable`).
    """
    settings = ViewSettings.of(judge)
    by_text: dict[str, Shown] = {}
    for index in sorted(rollouts):
        shown = shown_of(rollouts[index].response, settings)
        text = json.dumps(shown.response)
        known = by_text.get(text, shown)
        by_text[text] = replace(known, indices=(*known.indices, index))
    first = rollouts[min(rollouts)]
    order = shuffled(list(by_text), _salt(first, judge, sample))
    distinct = list(by_text.values())
    places = rubrics.parse(judge.rubric).metadata_places
    metadata = metadata_texts(places, first.metadata)
    return Members(first, [distinct[position] for position in order], metadata)


def shown_of(response: str | Sequence[Message], settings: ViewSettings) -> Shown:
    """Return what a judge is shown of a response."""
    found, truncated = selected(response, settings)
    chars = len(found) if isinstance(found, str) else sum(len(part.text) for part in found)
    return Shown(found, chars, truncated)


def why_not_comparable(rollouts: Sequence[Rollout], judge: JudgeConfig) -> str | None:
    """Return why a judge cannot compare rollouts of one group, or None."""
    if any(_context(rollout) != _context(rollouts[0]) for rollout in rollouts):
        return (
            f"the rollouts of group {rollouts[0].group_id!r} have different prompts, references or"
            f" tools, and the group judge {judge.name!r} compares responses to one prompt; give each"
            " prompt its own group_id"
        )
    places = rubrics.parse(judge.rubric).metadata_places
    try:
        filled = [metadata_texts(places, rollout.metadata) for rollout in rollouts]
    except MissingMetadata as error:
        return str(error)
    if different := [place for place in places if len({one[place] for one in filled}) > 1]:
        return (
            f"{different[0]}: differs within group {rollouts[0].group_id!r}, and the rubric of the"
            f" group judge {judge.name!r} shows it once for all; give them the same value"
        )
    settings = ViewSettings.of(judge)
    for rollout in rollouts if settings.images == "reject" else ():
        urls = [*images_in(rollout.prompt), *images_in(rollout.response)]
        if problem := images_problem(urls, settings):
            return problem
    return None


def _context(rollout: Rollout) -> tuple[Any, ...]:
    return rollout.prompt, rollout.reference, rollout.tools


def _salt(rollout: Rollout, judge: JudgeConfig, sample: int) -> str:
    return json.dumps([*_context(rollout), judge.rubric, sample])
