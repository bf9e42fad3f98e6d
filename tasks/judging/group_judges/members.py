"""The rollouts of a group as a judge is shown them: distinct responses in a random order; pure."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any

from oyer.config import rubric as rubrics
from oyer.config.judge import JudgeConfig
from oyer.config.rubrics.metadata import MissingMetadata, metadata_texts
from oyer.config.rubrics.template import Responses, TranscriptPart
from oyer.protocol.images import images_in
from oyer.protocol.rollout import Message, Rollout
from oyer.tasks.judging.group_judges.schedule import shuffled
from oyer.tasks.judging.group_judges.wording import reply_format
from oyer.tasks.judging.views import (
    ShownRollout,
    ViewSettings,
    images_problem,
    numbered,
    selected,
    with_images,
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One response as shown, and the rollouts that have it."""

    response: str | Sequence[TranscriptPart]
    chars: int
    truncated: bool
    indices: tuple[int, ...] = ()
    """In the batch, ascending."""
    images: tuple[str, ...] = ()
    """The URLs of its images, if they are sent."""


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
            settings=ViewSettings.of(judge),
            metadata=self.metadata,
        )


def render_group(
    rubric: rubrics.RubricTemplate,
    context: ShownRollout | Rollout,
    shown: Sequence["Shown"],
    *,
    scale: tuple[float, float],
    pairs: bool,
    settings: ViewSettings,
    metadata: Mapping[str, str],
) -> list[Message]:
    """Render a rubric with responses of one group.

    Images are behind the text, numbered within the prompt and within each response.

    Args:
        context: has their prompt, reference and tools.
    """
    prompt, images = context.prompt, []
    if settings.images != "placeholder":
        urls = enumerate(images_in(prompt), start=1)
        images = [(f"Prompt: [image {number}]", url) for number, url in urls]
        prompt = numbered(prompt)
    for place, one in enumerate(shown, start=1):
        urls = enumerate(one.images, start=1)
        images += [(f"Response {place}: [image {number}]", url) for number, url in urls]
    messages = rubrics.render(
        rubric,
        prompt=prompt,
        response=Responses([one.response for one in shown]),
        reference=context.reference,
        tools=context.tools,
        scale=scale,
        cut=any(one.truncated for one in shown),
        verdict=reply_format(rubric.language, pairs=pairs, n=len(shown), scale=scale),
        metadata=metadata,
    )
    return with_images(messages, images)


def members_of(rollouts: Mapping[int, Rollout], judge: JudgeConfig, sample: int) -> Members:
    """Return a group's responses, without repetitions, in the order in which a sample shows them.

    Args:
        rollouts: by index in the batch, with one prompt (see `why_not_comparable`).
    """
    settings = ViewSettings.of(judge)
    by_text: dict[str, Shown] = {}
    for index in sorted(rollouts):
        shown = shown_of(rollouts[index].response, settings)
        text = json.dumps([shown.response, shown.images] if shown.images else shown.response)
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
    images: tuple[str, ...] = ()
    if settings.images != "placeholder":
        images, response = tuple(images_in(response)), numbered(response)
    found, truncated = selected(response, settings)
    chars = len(found) if isinstance(found, str) else sum(len(part.text) for part in found)
    return Shown(found, chars, truncated, images=images)


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
    return _why_images_do_not_fit(rollouts, judge)


def _why_images_do_not_fit(rollouts: Sequence[Rollout], judge: JudgeConfig) -> str | None:
    """Return why the images of a group's largest request cannot be shown to a judge, or None."""
    settings = ViewSettings.of(judge)
    if settings.images == "placeholder":
        return None
    prompt = [*images_in(rollouts[0].prompt)]
    # Equal responses are shown once.
    distinct = {json.dumps(one.response): [*images_in(one.response)] for one in rollouts}
    counted: list[Iterable[list[str]]] = [distinct.values()]
    of = "the group"
    if judge.compares_pairs and settings.images == "send":
        of = "a pair of the group"
        # The pair with the most images, and the one with the largest.
        counted = [nlargest(2, distinct.values(), key) for key in (len, _chars)]
    problems = (
        images_problem([*prompt, *itertools.chain(*some)], settings, of) for some in counted
    )
    return next((problem for problem in problems if problem), None)


def _chars(urls: Sequence[str]) -> int:
    return sum(map(len, urls))


def _context(rollout: Rollout) -> tuple[Any, ...]:
    return rollout.prompt, rollout.reference, rollout.tools


def _salt(rollout: Rollout, judge: JudgeConfig, sample: int) -> str:
    return json.dumps([*_context(rollout), judge.rubric, sample])
