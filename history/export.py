"""Writes a run or a step as one HTML file that opens without a server."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from markupsafe import Markup
from sqlalchemy import Connection, func, select

from oyer.history.pages import groups, runs, scores, steps
from oyer.history.pages.step_filters import Filters
from oyer.history.rendering import STATIC, link, render
from oyer.models.batch import Run
from oyer.models.step_total import StepTotal
from oyer.protocol.errors import InvalidInput

MAX_ROLLOUTS = 2000
"""Most rollouts in a file, the latest steps first: about 30 MB."""

_MAIN = re.compile(r"<main[^>]*>(.*)</main>", re.DOTALL)
# Texts of rollouts contain no `<` and no `"`: templates escape them. So these match only what the
# templates wrote.
_LIVE = re.compile(
    r"""<form\b.*?</form>|<button\b.*?</button>|<(p|span) class="live">.*?</\1>""", re.DOTALL
)
"""What works with a server only."""
_LINK = re.compile(r' href="([^"]*)"')
_ID = re.compile(r' (id|aria-labelledby)="([^"]*)"')


@dataclass
class _File:
    """The pages of a file, by the addresses that link to them."""

    pages: list[tuple[str, str]] = field(default_factory=list)
    """Anchor and content."""
    anchors: dict[str, str] = field(default_factory=dict)
    """Anchor by address, without its query."""

    def add(self, template: str, values: Mapping[str, Any], *addresses: str) -> None:
        """Add a page that is reached by these addresses."""
        anchor = f"page-{len(self.pages)}"
        found = _MAIN.search(render(template, values))
        assert found is not None
        self.pages.append((anchor, found.group(1)))
        self.anchors.update(dict.fromkeys(addresses, anchor))

    def sections(self) -> Iterator[str]:
        """Yield each page as a section, with links between them as anchors."""
        for anchor, content in self.pages:
            inner = _LIVE.sub("", content)
            inner = _ID.sub(rf' \1="{anchor}-\2"', inner)
            inner = _LINK.sub(self._anchored, inner)
            yield f'<section class="page" id="{anchor}">\n{inner}\n</section>\n'

    def _anchored(self, found: re.Match[str]) -> str:
        path, _, query = found[1].partition("?")
        views = ("base=", "before=", "sort=")  # another view of a page, which the file lacks
        anchor = None if any(view in query for view in views) else self.anchors.get(path)
        return "" if anchor is None else f' href="#{anchor}"'


def export(conn: Connection, place: str, out: TextIO) -> tuple[int, int]:
    """Write the pages of a run or a step.

    The file of a run holds the split that its page shows first.

    Args:
        place: `RUN`, or `RUN/STEP`.

    Returns:
        The number of rollouts in the file, and on record.

    Raises:
        InvalidInput: `place` is not on record.
    """
    run_id, step = _place(conn, place)
    page = runs.run_page(conn, run_id, None, None)
    assert page is not None
    split = page["split"]
    file = _File()
    if step is None:
        file.add("run.html", {**page, "under_way": [], "next": None}, link("runs", run_id))
    chosen = [number for number, _ in page["steps"]] if step is None else [step]
    written = 0
    for number in chosen:
        if written >= MAX_ROLLOUTS:
            break
        shown = None if step is not None else split
        written += _add_step(conn, file, run_id, number, shown, MAX_ROLLOUTS - written)
    if not written:
        raise InvalidInput(f"--export {place}: no rollout of this step is on record")
    _write(file, place, out)
    return written, _recorded(conn, run_id, step)


def _recorded(conn: Connection, run_id: int, step: int | None) -> int:
    """Count the rollouts of a run's or a step's ended batches, in all splits."""
    query = select(func.sum(StepTotal.n)).where(
        StepTotal.run_id == run_id, StepTotal.name.startswith("status/")
    )
    if step is not None:
        query = query.where(StepTotal.step == step)
    return int(conn.scalar(query) or 0)


def _place(conn: Connection, place: str) -> tuple[int, int | None]:
    """Return the run's id and the step; names of runs may contain slashes."""
    run_id = conn.scalar(select(Run.id).where(Run.name == place))
    if run_id is not None:
        return run_id, None
    name, _, step = place.rpartition("/")
    run_id = conn.scalar(select(Run.id).where(Run.name == name))
    if run_id is None or not re.fullmatch(r"-?\d+", step):
        raise InvalidInput(
            f"--export {place}: no such run is on record; give RUN or RUN/STEP,"
            " as `oyer batches list` shows them"
        )
    return run_id, int(step)


def _add_step(
    conn: Connection, file: _File, run_id: int, step: int, split: str | None, limit: int
) -> int:
    """Add a step's page with its groups and scores; returns the number of rollouts."""
    found = steps.step_page(conn, run_id, step, split, Filters())
    if found is None or not found["groups"]:
        return 0
    file.add("step.html", found, link("runs", run_id, "steps", step))
    count = 0
    for group in found["groups"]:
        if count >= limit:
            break
        first = group.cells[0]
        page = groups.group_page(conn, first.batch_id, first.index, None)
        addresses = [link("groups", cell.batch_id, cell.index) for cell in group.cells]
        file.add("group.html", page or {}, *addresses)
        for cell in group.cells:
            score = scores.score_page(conn, cell.batch_id, cell.index)
            values = {**(score or {}), "review": None, "author": ""}
            file.add("score.html", values, link("scores", cell.batch_id, cell.index))
            count += 1
    return count


def _write(file: _File, title: str, out: TextIO) -> None:
    style = (STATIC / "page.css").read_text() + (STATIC / "file.css").read_text()
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    out.write(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{Markup.escape(title)} · Oyer</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><nav aria-label="Pages"><a class="brand" href="#page-0">Oyer</a>'
        f" <bdi>{Markup.escape(title)}</bdi></nav></header>\n<main>\n"
    )
    out.writelines(file.sections())
    out.write("</main>\n</body>\n</html>\n")
