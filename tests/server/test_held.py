"""Clients with a cap on their connections: no request waits for one that cannot be sent."""

import asyncio
import contextlib
import http.client
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager
from oyer.server import held
from tests.support.scripted_backend import Running, sibling
from tests.support.served_app import Served, served

CAP, SIZE, PROMPTS = 8, 4, 8


@pytest.fixture
def judge_says() -> str:
    return "Final score: 10"


@pytest.fixture(scope="module")
def banded(running: Running) -> RewardManager:
    return sibling(running[0], length={"method": "median_band", "unit": "chars"})


@pytest.fixture
def server(banded: RewardManager) -> Iterator[Served]:
    with served(banded, group_size=SIZE) as one:
        yield one


class CappedClient:
    """Sends samples over `CAP` connections, each again after a 503, as slime's `remote_rm`."""

    def __init__(self, server: Served, agent: str, *, asks_again: bool = True) -> None:
        self._server, self._agent, self._asks_again = server, agent, asks_again
        self._work: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue()
        self.answers: dict[int, Any] = {}
        self.refused = 0

    def send(self, samples: list[dict[str, Any]]) -> list[Any]:
        """Return the rewards."""
        self._left = len(samples)
        for item in enumerate(samples):
            self._work.put(item)
        threads = [threading.Thread(target=self._connection) for _ in range(CAP)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [self.answers[i] for i in range(len(samples))]

    def _connection(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=90)
        while (item := self._work.get()) is not None:
            i, sample = item
            headers = {"User-Agent": self._agent, "Content-Type": "application/json"}
            connection.request("POST", "/rm", json.dumps(sample), headers)
            response = connection.getresponse()
            body = json.loads(response.read())
            if response.status == 503 and self._asks_again:
                self.refused += 1
                # The connection is free meanwhile.
                threading.Timer(0.2, self._work.put, [item]).start()
                continue
            assert response.status == 200, body
            self.answers[i] = body
            self._left -= 1
            if not self._left:
                for _ in range(CAP):
                    self._work.put(None)
        connection.close()


def samples(tag: str) -> list[dict[str, Any]]:
    """The first samples of all prompts, then the second ones: no group fits into the cap."""
    return [
        {
            "prompt": f"{tag} {g}?",
            "response": f"{g}{i}" + "x" * (20 if i == 3 else 8),
            "label": None,
        }
        for i in range(SIZE)
        for g in range(PROMPTS)
    ]


def test_a_capped_client_that_asks_again_gets_whole_groups(
    server: Served, judge: JudgeServer
) -> None:
    client = CappedClient(server, "Python/3.11 aiohttp/3.14")
    rewards = client.send(samples("again"))
    assert client.refused
    # The longest of each whole group is penalised; one group was closed to find the cap.
    assert sum(reward == pytest.approx(0.0) for reward in rewards[-PROMPTS:]) >= PROMPTS - 2


def test_a_capped_client_that_does_not_is_answered_without_its_siblings(
    server: Served, judge: JudgeServer
) -> None:
    client = CappedClient(server, "python-httpx/0.28", asks_again=False)
    rewards = client.send(samples("once"))
    assert len(rewards) == SIZE * PROMPTS
    assert not client.refused


def test_a_lone_sample_does_not_wait_for_siblings_that_never_come(
    banded: RewardManager, judge: JudgeServer
) -> None:
    """E.g. a prompt that OpenRLHF evaluates with one sample through the training's URL."""
    # Its client gives up before the group's own timeout.
    with served(banded, group_size=SIZE, timeout_s=1000, group_timeout_s=500) as server:
        check_lone_samples(server)


def check_lone_samples(server: Served) -> None:
    whole = [{"prompt": "whole?", "response": "x" * n, "label": None} for n in (8, 8, 8, 20)]
    assert CappedClient(server, "any").send(whole)[-1] == pytest.approx(0.0)
    assert server.post("/rm", {"prompt": "lone?", "response": "x", "label": None}).json() == 1.0
    marked = server.post("/rm?split=eval", {"prompt": "marked?", "response": "x", "label": None})
    assert marked.json() == 1.0


def test_a_refused_sample_is_not_waited_for_and_is_neutral(
    banded: RewardManager, judge: JudgeServer
) -> None:
    texts = ["x" * 8, "x" * 9, "half a pair \ud83d"]
    whole = [{"prompt": "refused?", "response": text, "label": None} for text in texts]
    with served(banded, group_size=3, group_timeout_s=60) as server:
        rewards = CappedClient(server, "any").send(whole)
    assert rewards[:2] == [1.0, 1.0]
    assert rewards[2] in (0.0, 1.0)


def test_an_unjudged_sample_gets_its_group_s_mean(
    banded: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "unjudged yes"}, "then": "not_found"}],
            "default": {"text": "Final score: 6"},
        }
    )
    texts = ["unjudged yes", "unjudged no1", "unjudged no2"]
    whole = [{"prompt": "mean?", "response": text, "label": None} for text in texts]
    with served(banded, group_size=3) as server:
        rewards = CappedClient(server, "any").send(whole)
        queries = {"query": [f"m?{text}</s>" for text in texts], "prompts": ["m?"] * 3}
        answer = server.post("/get_reward", queries).json()
    assert rewards == pytest.approx([0.6] * 3)
    assert answer["rewards"] == pytest.approx([0.6] * 3)
    assert answer["extra_logs"]["oyer_missing"] == [1.0, 0.0, 0.0]
    assert answer["extra_logs"]["oyer/q"] == pytest.approx([6.0] * 3)
    assert answer["extra_logs"]["oyer/q_present"] == [0.0, 1.0, 1.0]


def test_time_in_which_the_server_did_not_run_is_no_pause_of_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "_CHECK_INTERVAL_S", 0.0)
    now, closed = [0.0], list[str]()

    async def main() -> None:
        requests = held.HeldRequests(clock=lambda: now[0])
        whole, part = (held.HeldGroup(f"{n}", n, lambda: closed.append("early")) for n in (1, 2))
        with requests.reply("whole", [whole]):
            pass
        with (
            requests.connection("h", 1, "part", asks_again=False),
            requests.reply("part", [part]),
        ):
            for step_s in (0.0, 10.0, 0.0):
                await asyncio.sleep(0)
                now[0] += step_s

    asyncio.run(main())
    assert closed == []


def test_requests_that_follow_a_late_answer_show_that_their_client_is_at_its_cap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "_CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(held, "QUIET_S", 0.0)
    now, closed = [0.0], list[int]()
    requests = held.HeldRequests(clock=lambda: now[0])

    @contextlib.contextmanager
    def waiting(number: int, port: int) -> Iterator[held.Connection]:
        group = held.HeldGroup(f"g{number}", 2, lambda: closed.append(number))
        key = f"r{number}"
        with (
            requests.connection("h", port, key, asks_again=True) as one,
            requests.reply(key, [group]),
        ):
            yield one

    async def main() -> list[held.Connection]:
        stacks = [contextlib.ExitStack() for _ in range(CAP)]
        others = [stack.enter_context(waiting(i, i)) for i, stack in enumerate(stacks)]
        while not closed:
            await asyncio.sleep(0)
        now[0] += 30.0  # the judge is slow
        stacks[closed[0]].close()
        with contextlib.ExitStack() as stack, waiting(CAP, closed[0]):
            for other in stacks:
                stack.push(other.__exit__)
            for _ in range(5):
                await asyncio.sleep(0)
            return [one for one in others if one.gives_way.is_set()]

    assert asyncio.run(main())
    assert len(closed) == 1
