"""`constraints.txt` pins what is installed, and everything that is needed is in it."""

import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.support.paths import ROOT

LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(name): version for name, _, version in (x.partition("==") for x in LINES)}


def needed() -> set[NormalizedName]:
    """Follow what Oyer and its extras require, through what is installed here."""
    todo = [(canonicalize_name("oyer"), frozenset({"all"}))]
    seen: set[tuple[NormalizedName, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            wanted = [{"extra": extra} for extra in extras or {""}]
            if requirement.marker and not any(map(requirement.marker.evaluate, wanted)):
                continue
            todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen} - {"oyer"}


def test_every_line_pins_one_version() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", line) for line in LINES)
    assert len(PINS) == len(LINES)


def test_everything_that_is_needed_is_pinned_and_installed_as_pinned() -> None:
    wanted = needed()
    assert len(wanted) > 50
    # The build of torch may name its hardware: 2.13.0+cpu.
    differing = {
        name: (PINS.get(name), version)
        for name in wanted
        if PINS.get(name) != (version := metadata.version(name).partition("+")[0])
        and not name.startswith("nvidia-")
    }
    assert differing == {}
