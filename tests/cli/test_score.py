"""`oyer score` writes one line per rollout of a file."""

import json
import random
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action, named
from tests.cli.conftest import Backend, broker_of, rollout_rows, write_config, write_lines
from tests.support.cli_process import oyer, running
from tests.support.tcp_proxy import TcpProxy


def rewards(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_answer(arrival: RequestEntry) -> Action:
    """Give answer i the score i + 1."""
    words = "\n".join(text for _, text in arrival.messages())
    number = int(words.rpartition("answer ")[2].split()[0])
    return Action(text=f"Final score: {number + 1}")


def test_a_second_terminal_finds_the_backend_of_its_folder(backend: Backend) -> None:
    backend.judge.set_plan(by_answer)
    path = backend.write_rollouts("order.jsonl", rollout_rows("order", 8))
    arguments = ["--config", "oyer.yaml", "--out", "order.out", "--run", "cli", "--json"]
    done = oyer("score", str(path), *arguments, "--batch-size", "2", cwd=backend.folder)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["rollouts"], summary["calls"]) == (8, 8)
    assert summary["statuses"] == {"scored": 8}
    lines = rewards(backend.folder / "order.out")
    assert [line["judge_score"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["group_id"] for line in lines] == [f"order-{i % 4}" for i in range(8)]
    assert [line["reward"] for line in lines] == pytest.approx([1 + 0.1 * i for i in range(1, 9)])
    batches = [line["batch_id"] for line in lines]
    assert batches[:4] == batches[4:]
    assert len(set(batches)) == 4


def test_invalid_lines_are_reported_by_number_and_nothing_is_submitted(backend: Backend) -> None:
    good = rollout_rows("bad", 4)
    rows = [
        good[0],
        "{not json",
        "",
        {**good[1], "base_score": "high"},
        [1, 2],
        {"prompt": "no response"},
        {name: value for name, value in good[2].items() if name != "group_id"},
        good[3],
    ]
    path = backend.write_rollouts("bad.jsonl", rows)
    arguments = ["--config", "oyer.yaml", "--out", "bad.out"]
    done = oyer("score", str(path), *arguments, cwd=backend.folder)
    assert done.returncode == 1
    first, *problems = done.stderr.splitlines()
    assert first == f"error {path}: nothing was submitted"
    assert [problem.split(":")[0] for problem in problems] == [
        "  line 2",
        "  line 4",
        "  line 5",
        "  line 6",
        "  line 7",
    ]
    for problem, named_there in zip(
        problems,
        ["is not valid JSON", "base_score", "is not a JSON object", "response", "group_id"],
        strict=True,
    ):
        assert named_there in problem
    assert backend.judge.requests == []
    assert not (backend.folder / "bad.out").exists()


def test_standard_output_has_rewards_only_and_a_missing_reward_has_a_reason(
    backend: Backend,
) -> None:
    backend.judge.set_plan(named("unauthorized"))
    path = backend.write_rollouts("failed.jsonl", rollout_rows("failed", 2))
    done = oyer("score", str(path), "--config", "oyer.yaml", cwd=backend.folder)
    assert done.returncode == 3
    assert "2 rollouts in" in done.stderr
    assert "2 rejected" in done.stderr
    assert "rejected e.g. HTTP 401" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["status"], line["reward"], line["trainable"]) for line in lines] == [
        ("rejected", None, False)
    ] * 2


def test_a_policy_that_raises_is_an_error_and_leaves_no_output(backend: Backend) -> None:
    backend.judge.set_plan(named("unauthorized"))
    path = backend.write_rollouts("raise.jsonl", rollout_rows("raise", 2))
    arguments = ["--config", "oyer.yaml", "--out", "raise.out"]
    done = oyer("score", str(path), *arguments, cwd=backend.folder, OYER_REWARD__ON_MISSING="raise")
    assert done.returncode == 1
    assert "2 of 2 rollouts to be judged have no score (2 rejected)" in done.stderr
    assert "is `raise`; nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(backend.folder.glob("raise.out*")) == []


def test_an_output_that_cannot_be_written_is_refused_before_any_judge_call(
    backend: Backend,
) -> None:
    path = backend.write_rollouts("unwritable.jsonl", rollout_rows("unwritable", 2))
    arguments = ["--config", "oyer.yaml", "--out", "no/such/folder.jsonl"]
    done = oyer("score", str(path), *arguments, cwd=backend.folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error --out no/such/folder.jsonl: No such file or directory")
    assert backend.judge.requests == []


def test_ctrl_c_cancels_the_batches_and_prints_it(backend: Backend, tmp_path: Path) -> None:
    backend.judge.set_plan(Action(hold=True))
    write_lines(tmp_path / "stopped.jsonl", rollout_rows("stopped", 4))
    state = json.loads((backend.folder / ".oyer" / "backend.json").read_text())
    arguments = ["--config", str(backend.folder / "oyer.yaml"), "--out", "stopped.out"]
    score = ("score", "stopped.jsonl", *arguments)
    broker = {"OYER_BROKER__URL": state["broker_url"]}
    with running(*score, cwd=tmp_path, changes=broker) as command:
        backend.judge.wait_until(lambda log: len(log) == 4)
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130
        assert "running batches are cancelled, and nothing is written" in command.errors()
    backend.judge.release()
    assert not (tmp_path / "stopped.out").exists()


def test_a_line_has_components_verdicts_and_scores_by_turn(
    backend: Backend, tmp_path: Path
) -> None:
    backend.judge.set_plan(Action())  # scores by a rule
    judges = [
        {"name": "steps", "endpoint": "fake", "model": "m", "view": "each_turn"},
        {
            "name": "rubric",
            "endpoint": "fake",
            "model": "m",
            "criteria": [{"name": "polite", "text": "Is it polite?"}],
        },
    ]
    write_config(tmp_path, backend.judge.base_url, judges=judges, length=[])
    turns = [
        {"role": "assistant", "content": "I look it up."},
        {"role": "user", "content": "Well?"},
    ]
    turns.append({"role": "assistant", "content": "It is Paris."})
    rows = [{"prompt": "capital?", "response": response} for response in (turns, "Paris.")]
    write_lines(tmp_path / "turns.jsonl", rows)
    done = oyer("score", "turns.jsonl", cwd=tmp_path, OYER_BROKER__URL=broker_of(backend))
    assert done.returncode == 0, done.stderr
    for line, n_turns in zip(map(json.loads, done.stdout.splitlines()), (2, 1), strict=True):
        assert line["components"].keys() == {"steps", "rubric", "rubric/polite"}
        assert len(line["turn_scores"]) == n_turns
        assert line["turn_scores"][-1] == line["components"]["steps"]
        (verdict,) = line["criteria"]["rubric"]
        assert (verdict["name"], verdict["value"]) == (
            "polite",
            line["components"]["rubric/polite"],
        )
        assert verdict["reason"]


def test_an_outage_of_the_broker_is_waited_out(backend: Backend, tmp_path: Path) -> None:
    backend.judge.set_plan(Action(text="Final score: 5", hold=True))
    path = write_lines(tmp_path / "outage.jsonl", rollout_rows("outage", 12))
    url = urlsplit(broker_of(backend))
    assert url.port
    with TcpProxy(url.port) as proxy:
        through = url._replace(netloc=url.netloc.replace(str(url.port), str(proxy.port))).geturl()
        config = str(backend.folder / "oyer.yaml")
        score = ["score", str(path), "--config", config, "--run", "outage", "--batch-size", "2"]
        changes = {"OYER_BROKER__URL": through}
        score += ["--out", str(tmp_path / "outage.out")]
        with running(*score, cwd=tmp_path, changes=changes, merged=True) as command:
            # Four of the six batches are under way, and two are still to be submitted.
            backend.judge.wait_until(lambda log: len(log) == 8)
            proxy.refuse()
            command.read_until("still trying")
            backend.judge.set_plan(Action(text="Final score: 5"))
            backend.judge.release()
            proxy.forward()
            assert command.wait() == 0, command.lines
    assert [line["judge_score"] for line in rewards(tmp_path / "outage.out")] == [5.0] * 12


def test_a_full_backlog_is_waited_for(backend: Backend, tmp_path: Path) -> None:
    # Two batches of this size do not fit into the smallest backlog, 1 MiB.
    rows = [
        {**row, "response": random.Random(i).randbytes(200_000).hex()}
        for i, row in enumerate(rollout_rows("full", 6))
    ]
    path = write_lines(tmp_path / "full.jsonl", rows)
    limited = {"url": broker_of(backend), "max_backlog_bytes": 2**20}
    config = write_config(tmp_path, backend.judge.base_url, broker=limited)
    score = ["score", str(path), "--config", str(config), "--run", "full", "--batch-size", "2"]
    done = oyer(*score, "--out", "full.out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line["judge_score"] for line in rewards(tmp_path / "full.out")] == [8.0] * 6


def test_without_a_backend_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    write_config(tmp_path, "http://127.0.0.1:9/v1")
    write_lines(tmp_path / "rollouts.jsonl", rollout_rows("none", 2))
    done = oyer("score", "rollouts.jsonl", "--config", "oyer.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "oyer up" in done.stderr
    assert "--local" in done.stderr


def test_local_starts_an_embedded_backend(backend: Backend, tmp_path: Path) -> None:
    write_config(tmp_path, backend.judge.base_url)
    write_lines(tmp_path / "rollouts.jsonl", rollout_rows("local", 4))
    arguments = ["--config", "oyer.yaml", "--local", "--json"]
    done = oyer("score", "rollouts.jsonl", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["judge_score"] for line in done.stdout.splitlines()] == [8.0] * 4
    assert json.loads(done.stderr)["statuses"] == {"scored": 4}


def test_the_exit_code_reports_failed_judging(backend: Backend) -> None:
    rows = [*rollout_rows("mixed", 2), {**rollout_rows("gated", 2)[0], "base_score": 0.0}]
    path = backend.write_rollouts("mixed.jsonl", rows)
    backend.judge.set_plan(named("unauthorized"))
    done = oyer("score", str(path), "--out", "mixed.out", "--json", cwd=backend.folder)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["failed"] == 2
    assert len(rewards(backend.folder / "mixed.out")) == 3
    backend.judge.set_plan(Action(text="Final score: 8"))
    done = oyer("score", str(path), "--out", "mixed.out", cwd=backend.folder)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "using ./oyer.yaml")
    again = oyer("score", str(path), "--out", "mixed.out", cwd=backend.folder)
    assert again.returncode == 0
    assert "no calls: every score was on record already" in again.stderr


def test_a_single_rollout_is_written_in_the_singular(backend: Backend) -> None:
    path = backend.write_rollouts("one.jsonl", rollout_rows("single", 2)[:1])
    done = oyer("score", str(path), "--out", "one.out", cwd=backend.folder)
    assert "1 rollout in " in done.stderr
    assert "; 1 call, " in done.stderr
