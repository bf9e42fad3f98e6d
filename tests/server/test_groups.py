"""Groups whose rollouts arrive in separate requests, as from OpenRLHF and slime."""

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from oyer.cli.serving.serve import only_batches
from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardManager, Rollout
from tests.support.scripted_backend import Running, sibling
from tests.support.served_app import Answer, served


@pytest.fixture
def judge_says() -> str:
    return "Final score: 10"


@pytest.fixture(scope="module")
def banded(running: Running) -> RewardManager:
    """A manager whose length method compares the characters of a group's responses."""
    return sibling(running[0], length={"method": "median_band", "unit": "chars"})


def body(prompt: str, response: str) -> dict[str, Any]:
    """What OpenRLHF posts."""
    return {"query": [f"{prompt}{response}</s>"], "prompts": [prompt], "labels": ["42"]}


def together(*posts: Callable[[], Answer]) -> list[Any]:
    """Make requests concurrently, each on a thread."""
    answers: list[Any] = [None] * len(posts)

    def post(i: int) -> None:
        answers[i] = posts[i]().json()

    threads = [threading.Thread(target=post, args=(i,)) for i in range(len(posts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_a_group_in_several_requests_is_assembled(
    banded: RewardManager, judge: JudgeServer
) -> None:
    with served(banded) as server:

        def post(i: int, length: int) -> Answer:
            rollout = {
                "prompt": "parts?", "response": f"{i}" * length, "group_id": "parts",
                "base_score": 1.0,
            }  # fmt: skip
            return server.post("/v1/score", {"rollouts": [rollout], "group_size": 4})

        answers = together(*(lambda i=i, n=n: post(i, n) for i, n in enumerate([10, 10, 10, 16])))
    assert [answer["rewards"][0] for answer in answers] == pytest.approx([2.0, 2.0, 2.0, 1.0])


def test_single_samples_of_a_prompt_form_a_group(banded: RewardManager, judge: JudgeServer) -> None:
    with served(banded, group_size=3) as server:
        texts = ["a" * 10, "b" * 10, "c" * 16]
        answers = together(
            *(lambda text=text: server.post("/get_reward", body("single?", text)) for text in texts)
        )
    assert [answer["rewards"] for answer in answers] == [
        [pytest.approx(1.0)], [pytest.approx(1.0)], [pytest.approx(0.0)],
    ]  # fmt: skip


def test_two_samples_with_equal_text_count_twice_in_their_group(
    banded: RewardManager, judge: JudgeServer
) -> None:
    """Both clients wait, so neither is a retry of the other; one judge call serves both."""
    texts = ["twin" * 5, "twin" * 5, "single" * 5]
    with served(banded, group_size=3, timeout_s=20) as server:
        answers = together(
            *(lambda text=text: server.post("/get_reward", body("twin?", text)) for text in texts)
        )
        samples = [{"prompt": "twins?", "response": text, "label": "42"} for text in texts]
        numbers = together(*(lambda s=sample: server.post("/rm", s) for sample in samples))
    # Of 20, 20 and 30 the median is 20; were the twins one, it would be 25.
    assert [answer["rewards"][0] for answer in answers] == pytest.approx([1.0, 1.0, 0.0])
    assert numbers == pytest.approx([1.0, 1.0, 0.0])
    assert len(judge.requests) == 4


def test_equal_samples_in_different_requests_count_twice_in_their_group(
    banded: RewardManager, judge: JudgeServer
) -> None:
    twin, others = "twin" * 5, ["b" * 20, "c" * 32]
    parts: list[list[dict[str, Any]]] = [
        [{"prompt": "shared?", "response": text, "group_id": "shared"} for text in (twin, other)]
        for other in others
    ]
    with served(banded) as server:
        answers = together(
            *(
                lambda part=part: server.post("/v1/score", {"rollouts": part, "group_size": 4})
                for part in parts
            )
        )
    whole = [row for part in parts for row in part]
    batch = banded.submit([Rollout(**row) for row in whole]).result(60)
    assert [one for answer in answers for one in answer["rewards"]] == batch.rewards.tolist()
    assert len(judge.requests) == 3


def test_a_client_that_disconnected_and_retries_is_the_same_sample(
    banded: RewardManager, judge: JudgeServer
) -> None:
    long, texts = "c" * 16, ["a" * 10, "b" * 10]
    judge.set_plan(Action(text="Final score: 10", hold=True))
    with served(banded, group_size=3, timeout_s=20) as server:
        impatient = http.client.HTTPConnection("127.0.0.1", server.port)
        impatient.request("POST", "/get_reward", json.dumps(body("again?", long)))
        judge.wait_until(lambda log: len(log) == 1)
        impatient.close()
        judge.set_plan(Action(text="Final score: 10"))
        judge.release()
        # Clients wait a second; by this answer the server has seen the other go.
        assert server.get("/healthz").status == 200
        answers = together(
            *(
                lambda text=text: server.post("/get_reward", body("again?", text))
                for text in (long, *texts)
            )
        )
    # Were it two samples, the median would be its own length.
    assert [answer["rewards"][0] for answer in answers] == pytest.approx([0.0, 1.0, 1.0])
    assert len(judge.requests) == 3


def test_an_incomplete_group_is_answered_in_time_with_its_present_rollouts(
    banded: RewardManager, judge: JudgeServer
) -> None:
    with served(banded, group_size=4, timeout_s=5) as server:
        answer = server.post("/get_reward", body("late?", "alone")).json()
    assert answer["rewards"] == pytest.approx([1.0])
    assert answer["extra_logs"]["oyer_missing"] == [0.0]


def test_without_a_group_size_single_samples_are_refused_and_batches_are_scored(
    banded: RewardManager, judge: JudgeServer
) -> None:
    with served(banded) as server:
        refused: list[Answer] = [
            server.post("/get_reward", body("unsized?", "x")),
            server.post("/rm", {"prompt": "unsized?", "response": "x", "label": None}),
        ]
        rollout = {"prompt": "unsized?", "response": "x", "group_id": "g"}
        batch = server.post("/v1/score", {"rollouts": [rollout]})
    assert [answer.status for answer in refused] == [422, 422]
    assert all("--group-size" in answer.json()["error"] for answer in refused)
    assert batch.json()["rewards"] == pytest.approx([1.0])


def test_a_configuration_for_batches_only_gives_a_note(banded: RewardManager) -> None:
    assert "--group-size" in str(only_batches(banded, None))
    assert only_batches(banded, 8) is None
    counted = sibling(banded, length={"method": "soft_overlong", "max_len": 10, "cache_len": 5})
    assert "tokenizer" in str(only_batches(counted, None))
