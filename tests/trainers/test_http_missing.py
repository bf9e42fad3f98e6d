"""What a missing score becomes over HTTP, where a trainer takes nothing but numbers."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from storms import stormy
from trainer_backend import WORKERS_PYTHON, Backend, score_of

Post = Callable[[str, Any], tuple[int, Any]]


@pytest.fixture
def serve(backend: Backend) -> Iterator[Callable[..., Post]]:
    """Start `oyer serve` with options; a judge fails for responses with `storm`."""
    backend.judge.set_plan(stormy)
    with ExitStack() as stack:

        def start(*options: str) -> Post:
            command = [WORKERS_PYTHON, "-m", "oyer.cli", "serve", "--json", "--port", "0", *options]
            command += ["--config", str(backend.file("missing.yaml"))]
            process = stack.enter_context(
                subprocess.Popen(command, cwd=backend.folder, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.terminate)
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            return lambda path, body: post(url + path, body)

        yield start


def post(url: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def reward_of(text: str) -> float:
    return 0.1 * score_of(text)


def openrlhf(prompt: str, *texts: str) -> dict[str, Any]:
    return {"query": [f"{prompt}{t}<eos>" for t in texts], "prompts": [prompt] * len(texts)}


def remote(prompt: str, text: str) -> dict[str, Any]:
    return {"prompt": prompt, "response": text, "label": "4"}


def test_get_reward_without_groups_gives_the_mean_of_what_is_known(
    serve: Callable[..., Post],
) -> None:
    ask = serve("--run", "missing-single")
    status, first = ask("/get_reward", openrlhf("A?", "storm 0"))
    assert status == 200
    assert first["rewards"] == [0.0]
    assert first["extra_logs"]["oyer_missing"] == [1.0]
    texts = ["good 1", "good 22"]
    judged = list(map(reward_of, texts))
    assert ask("/get_reward", openrlhf("A?", *texts))[1]["rewards"] == pytest.approx(judged)
    _, other = ask("/get_reward", openrlhf("B?", "good 4444"))
    recent = [*judged, *other["rewards"]]
    # Of its prompt; of the latest rewards for a prompt without any.
    for prompt, known in (("A?", judged), ("C?", recent)):
        _, one = ask("/get_reward", openrlhf(prompt, f"storm {prompt}"))
        assert one["rewards"] == pytest.approx([sum(known) / len(known)])
        assert one["extra_logs"]["oyer_missing"] == [1.0]
        assert one["extra_logs"]["oyer/q_present"] == [0.0]


@pytest.mark.parametrize("path", ["/get_reward", "/rm", "/rm?key=score"])
def test_with_a_group_size_it_is_the_mean_of_its_group(
    serve: Callable[..., Post], path: str
) -> None:
    ask = serve("--run", f"missing{path}", "--group-size", "3")
    texts = ["one 1", "storm 2", "two 33"]
    make = openrlhf if path == "/get_reward" else remote
    # Each connection waits for the group.
    with ThreadPoolExecutor(3) as pool:
        answers = [a for _, a in pool.map(lambda text: ask(path, make("G?", text)), texts)]
    if path == "/get_reward":
        rewards = [answer["rewards"][0] for answer in answers]
        missing = [answer["extra_logs"]["oyer_missing"][0] for answer in answers]
    elif path == "/rm":
        rewards, missing = answers, [0, 1, 0]
    else:
        rewards = [answer["score"] for answer in answers]
        missing = [answer["missing"] for answer in answers]
        assert answers[1]["judge_status"] == "rate_limited"
    assert missing == [0, 1, 0]
    first, last = reward_of(texts[0]), reward_of(texts[2])
    assert rewards == pytest.approx([first, (first + last) / 2, last])


def test_a_stand_in_replaces_it(serve: Callable[..., Post]) -> None:
    ask = serve("--run", "missing-stand-in", "--stand-in", "-0.25")
    assert ask("/get_reward", openrlhf("A?", "storm 5"))[1]["rewards"] == [-0.25]
    assert ask("/rm", remote("A?", "storm 6")) == (200, -0.25)


def test_batches_and_graders_get_no_number(serve: Callable[..., Post]) -> None:
    ask = serve("--run", "missing-none")
    rows = [{"prompt": "B?", "response": text, "group_id": "b"} for text in ("good 7", "storm 7")]
    status, batch = ask("/v1/score", {"rollouts": rows})
    assert status == 200
    assert batch["rewards"] == [pytest.approx(reward_of("good 7")), None]
    assert batch["mask"] == [True, False]
    assert batch["statuses"] == ["scored", "rate_limited"]
    grader = {"type": "score_model", "name": "q", "model": "m", "input": []}
    run = {"grader": grader, "item": {}, "model_sample": "storm 8"}
    assert ask("/graders/run", run)[0] == 503
    assert ask("/graders/run", {**run, "model_sample": "good 8"})[0] == 200
    assert ask("/grade", {"sample": "storm 9", "item": {}})[0] == 503
    assert ask("/grade", {"sample": "good 9", "item": {}})[0] == 200
