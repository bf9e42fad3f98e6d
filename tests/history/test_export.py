"""A run or a step as one file that needs no server."""

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine

from oyer.history.export import export
from oyer.history.reading import bounded
from oyer.protocol.errors import InvalidInput
from tests.support.cli_process import oyer
from tests.support.page_record import HOSTILE, add_batch


def exported(engine: Engine, place: str, folder: Path) -> str:
    path = folder / "out.html"
    with bounded(engine) as conn, path.open("w", errors="replace") as out:
        export(conn, place, out)
    return path.read_text()


@pytest.mark.parametrize(("place", "pages"), [("first", 1 + 2 * (1 + 2 + 8)), ("first/1", 11)])
def test_each_link_leads_to_a_page_of_the_file(
    engine: Engine, batches: dict[str, str], tmp_path: Path, place: str, pages: int
) -> None:
    text = exported(engine, place, tmp_path)
    assert text.count('<section class="page"') == pages
    targets = re.findall(r' href="([^"]*)"', text)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert targets
    assert {target[1:] for target in targets} <= set(ids)
    assert all(target.startswith("#") for target in targets)
    assert set(re.findall(r' aria-labelledby="([^"]*)"', text)) <= set(ids)


def test_the_file_loads_nothing_and_runs_nothing(
    engine: Engine, batches: dict[str, str], tmp_path: Path
) -> None:
    text = exported(engine, "<i>run</i>/x", tmp_path)
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|img|link|iframe|form|button|i|b)\b", text)
    assert text.count("</main>") == 1
    assert len(text) < 1_000_000 < len(HOSTILE[4]) + 1
    assert exported(engine, "<i>run</i>/x/0", tmp_path).count('<section class="page"') == 8


@pytest.mark.parametrize("place", ["nothing", "first/9", "first/x", "nothing/1"])
def test_a_place_that_is_not_on_record_is_named(
    engine: Engine, batches: dict[str, str], tmp_path: Path, place: str
) -> None:
    with pytest.raises(InvalidInput, match=f"--export {place}"):
        exported(engine, place, tmp_path)


def test_the_command_writes_the_file(
    engine: Engine, batches: dict[str, str], tmp_path: Path
) -> None:
    url = engine.url.render_as_string(hide_password=False)
    done = oyer("view", "--url", url, "--export", "first/0", "page.html", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote 8 rollouts to page.html\n"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    done = oyer("view", "--url", url, "--export", "first/0", "none/page.html", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error --export first/0: cannot write none/page.html: No such")


def test_the_command_says_what_the_file_leaves_out(
    engine: Engine, batches: dict[str, str], tmp_path: Path
) -> None:
    add_batch(engine, ["a"], scores=[{"quality": 5.0, "safety": 1.0}], split="eval")
    url = engine.url.render_as_string(hide_password=False)
    done = oyer("view", "--url", url, "--export", "first", "page.html", cwd=tmp_path)
    assert done.stdout == "wrote 16 of 17 rollouts to page.html\n"
    assert "a file holds one split of a run" in done.stderr
    done = oyer("view", "--url", url, "--export", "first/0", "page.html", "--json", cwd=tmp_path)
    assert (json.loads(done.stdout)["rollouts"], json.loads(done.stdout)["recorded"]) == (9, 9)
