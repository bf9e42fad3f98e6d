"""`oyer rubric` prints and tests rubrics."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from oyer.config import rubric as rubrics
from oyer.config.loading import read_rubric
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from tests.cli.conftest import Backend, rollout_rows, write_config, write_lines
from tests.support.cli_process import oyer

MINE = """---
name: manners
criteria:
  - {name: tone, weight: 3, text: 'Is it polite?', choices: [never, mostly, always]}
  - {name: brevity, text: 'Is it short?'}
---
You judge manners.
{criteria}
{verdict}
---user---
{rollout}
"""
BARE = "Rate {response} as an answer to {prompt}."
NO_VERDICT = "note: this rubric has no {verdict}"
ROLLOUT = {"prompt": "Say [b]hi[/b].", "response": "Hello, ```you```.", "reference": "Hi."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with two rubrics and a file of rollouts, and no configuration."""
    (tmp_path / "mine.md").write_text(MINE)
    (tmp_path / "bare.md").write_text(BARE)
    gated = {**ROLLOUT, "base_score": 0}
    empty = {"prompt": "p", "response": " \n"}
    write_lines(tmp_path / "r.jsonl", [ROLLOUT, gated, empty, "no JSON"])
    return tmp_path


def listed(cwd: Path) -> dict[str, dict[str, Any]]:
    """List as JSON, by name."""
    done = oyer("rubric", "list", "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)}


def test_the_list_has_the_built_in_rubrics_and_those_of_the_judges(folder: Path) -> None:
    judges = [
        {"name": name, "endpoint": "e", "model": "m", "rubric": rubric}
        for name, rubric in {"a": "tool_call_en", "b": "mine.md", "c": BARE}.items()
    ]
    (folder / "oyer.yaml").write_text(yaml.safe_dump({"judges": judges, "length": []}))
    found = listed(folder)
    assert list(found) == [*rubrics.BUILT_IN, "judge a", "judge b", "judge c"]
    assert [found[f"judge {name}"]["rubric"] for name in "abc"] == [
        "tool_call_en",
        "manners",
        None,
    ]
    assert found["judge b"]["criteria"] == ["tone", "brevity"]
    asks = {name: one["asks_for_verdict"] for name, one in found.items()}
    assert [name for name, asked in asks.items() if not asked] == ["judge c"]
    table = oyer("rubric", "list", cwd=folder).stdout
    assert all(name in table for name in found)


@pytest.mark.parametrize("name", rubrics.BUILT_IN)
def test_a_printed_built_in_rubric_is_a_valid_rubric_file(name: str, folder: Path) -> None:
    done = oyer("rubric", "show", name, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == rubrics.resolve(name).rstrip("\n")
    (folder / "copy.md").write_text(done.stdout)
    copy = rubrics.parse(read_rubric("copy.md", folder))
    assert copy == rubrics.parse(rubrics.resolve(name))


def test_a_file_and_a_judges_rubric_are_shown_with_their_properties(folder: Path) -> None:
    done = oyer("rubric", "show", "mine.md", "--json", cwd=folder)
    shown = json.loads(done.stdout)
    assert shown["text"] == MINE
    assert shown["hash"] == rubrics.rubric_hash(MINE)
    judge = {"name": "b", "endpoint": "e", "model": "m", "rubric": "mine.md"}
    (folder / "oyer.yaml").write_text(yaml.safe_dump({"judges": [judge]}))
    assert oyer("rubric", "show", "b", cwd=folder).stdout == MINE


def test_an_unknown_rubric_is_refused_with_the_known_ones(folder: Path) -> None:
    done = oyer("rubric", "show", "reasoning", cwd=folder)
    assert done.returncode == 1
    assert "reasoning_en" in done.stderr


def test_a_rubric_is_rendered_with_one_line_of_a_file(folder: Path) -> None:
    done = oyer("rubric", "render", "r.jsonl", "--rubric", "mine.md", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    system, user = done.stdout.split("--- user ---\n")
    assert "- tone (weight 75%): Is it polite?\n  From worst to best: never < mostly" in system
    assert "Final score: N\n(N is one number from 1 to 10.)" in system
    # As it is sent: what looks like markup of a terminal, and a fence that the response cannot close.
    assert "Say [b]hi[/b]." in user
    assert "````\nHello, ```you```.\n````" in user
    assert "## Reference answer\n```\nHi.\n```" in user


def test_a_trajectory_is_rendered_by_author_and_a_refused_image_is_reported(folder: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    said = {"role": "assistant", "content": "Hello."}
    rows = [
        {"prompt": "p", "response": [{"role": "tool", "content": "page"}, said]},
        {"prompt": [{"role": "user", "content": [image]}], "response": [said]},
    ]
    write_lines(folder / "t.jsonl", rows)
    for how in ("send", "reject"):
        judge = f"{{name: q, endpoint: e, model: m, rubric: mine.md, images: {how}}}"
        (folder / f"{how}.yaml").write_text(f"judges: [{judge}]\n")
    render = ["rubric", "render", "t.jsonl", "--config"]
    shown = oyer(*render, "send.yaml", cwd=folder).stdout
    assert "[tool]\n```\npage\n```\n\n[assistant]\n```\nHello.\n```" in shown
    sent = oyer(*render, "send.yaml", "--line", "2", cwd=folder)
    assert (sent.returncode, "[image 1]" in sent.stdout) == (0, True)
    refused = oyer(*render, "reject.yaml", "--line", "2", cwd=folder)
    assert refused.returncode == 1
    assert "`images` is `reject`" in refused.stderr


def test_a_line_that_no_judge_would_get_is_reported(folder: Path) -> None:
    render = ["rubric", "render", "r.jsonl", "--rubric", "mine.md", "--line"]
    gated = oyer(*render, "2", cwd=folder)
    assert gated.returncode == 0
    assert "line 2: its base score is not positive" in gated.stderr
    assert "You judge manners." in gated.stdout
    for number, why in {
        "3": "its status is `empty`",
        "4": "is not valid JSON",
        "5": "has 4 lines",
    }.items():
        done = oyer(*render, number, cwd=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr


def test_a_rubric_that_asks_for_no_verdict_is_noted(folder: Path) -> None:
    for command in (["show", "bare.md"], ["render", "r.jsonl", "--rubric", "bare.md"]):
        assert NO_VERDICT in oyer("rubric", *command, cwd=folder).stderr


def test_one_of_several_judges_is_chosen_by_name(folder: Path) -> None:
    render = ["rubric", "render", "r.jsonl"]
    done = oyer(*render, cwd=folder)
    assert (done.returncode, "--rubric: name one" in done.stderr) == (1, True)
    judges = [{"name": name, "endpoint": "e", "model": "m"} for name in ("a", "b")]
    (folder / "oyer.yaml").write_text(yaml.safe_dump({"judges": judges}))
    done = oyer(*render, cwd=folder)
    assert "--judge: the configuration has a, b; name one" in done.stderr
    done = oyer(*render, "--judge", "c", cwd=folder)
    assert "there is no judge 'c'; the configuration has a, b" in done.stderr
    assert oyer(*render, "--judge", "b", cwd=folder).returncode == 0


def test_the_rendered_request_equals_the_one_that_a_worker_sends_and_records(
    backend: Backend,
) -> None:
    rows = rollout_rows("rubric", 2)
    backend.write_rollouts("rubric.jsonl", rows)
    done = oyer("score", "rubric.jsonl", "--run", "rubric", cwd=backend.folder)
    assert done.returncode == 0, done.stderr
    sent = {json.dumps(request.json()["messages"]) for request in backend.judge.requests}
    rendered = [
        json.loads(
            oyer("rubric", "render", "rubric.jsonl", *line, "--json", cwd=backend.folder).stdout
        )
        for line in ((), ("--line", "2"))
    ]
    assert {json.dumps(one["request"]["messages"]) for one in rendered} == sent
    query = "SELECT DISTINCT request_hash FROM judgements"
    recorded = oyer("db", "sql", query, "--json", cwd=backend.folder).stdout
    assert all(one["request_hash"] in recorded for one in rendered)


def test_try_prints_the_reply_and_the_parsed_score(folder: Path) -> None:
    with JudgeServer(Action(text="It is [b]polite[/b].\n**Final score: 7**")) as judge:
        write_config(folder, judge.base_url)
        done = oyer("rubric", "try", "r.jsonl", "--rubric", "mine.md", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert len(judge.requests) == 1
        assert "It is [b]polite[/b].\n**Final score: 7**\n" in done.stdout
        assert "score      7\n" in done.stdout
        assert "status     scored\n" in done.stdout
        report = json.loads(
            oyer("rubric", "try", "r.jsonl", "--rubric", "mine.md", "--json", cwd=folder).stdout
        )
        assert judge.requests[-1].json()["messages"] == report["request"]["messages"]
    assert (report["status"], report["score"]) == ("scored", 7)
    assert "7" in report["span"]


@pytest.mark.parametrize(
    ("plan", "status"),
    [
        (Action(text="I would rather not say."), "unparseable"),
        (Action(text="Final score: 11"), "unparseable"),
        (Action(text="Final", choice={"finish_reason": "length"}), "truncated"),
        (named("unauthorized"), "rejected"),
    ],
    ids=["no score", "off the scale", "cut", "refused"],
)
def test_try_without_a_score_prints_the_reason(plan: Action, status: str, folder: Path) -> None:
    with JudgeServer(plan) as judge:
        write_config(folder, judge.base_url)
        done = oyer("rubric", "try", "r.jsonl", cwd=folder)
    assert done.returncode == 3
    assert f"status     {status}\n" in done.stdout


def test_try_needs_the_endpoint(folder: Path) -> None:
    judge = {"name": "b", "endpoint": "theirs", "model": "m"}
    (folder / "oyer.yaml").write_text(yaml.safe_dump({"judges": [judge]}))
    done = oyer("rubric", "try", "r.jsonl", cwd=folder)
    assert done.returncode == 1
    assert "judges.b.endpoint: 'theirs' is not under `endpoints`" in done.stderr
