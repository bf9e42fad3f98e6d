"""The order of waiting calls; pure."""

from collections import Counter

from oyer.tasks.coordination.fair_queue import PRIORITY_WEIGHTS, FairQueue, Flow

A, B = Flow("a", 1.0), Flow("b", 1.0)


def served(queue: FairQueue[Flow], slots: int, calls: int, shares: dict[str, int]) -> list[Flow]:
    """Begin calls while slots last, the oldest call ending first; return the flows in order."""
    order: list[Flow] = []
    for _ in range(calls):
        if len(order) >= slots:
            queue.end(order[-slots].name)
        flow = queue.next(shares)
        assert flow is not None
        order.append(queue.begin(flow))
    return order


def queued(*flows: Flow, calls: int = 1000) -> FairQueue[Flow]:
    queue: FairQueue[Flow] = FairQueue()
    for flow in flows:
        for _ in range(calls):
            queue.push(flow, flow)
    return queue


def test_a_flow_that_arrives_during_a_backlog_gets_half_of_the_permits() -> None:
    queue = queued(A)
    served(queue, 8, 8, {"a": 8})
    for _ in range(4):
        queue.push(B, B)
    order = []
    for _ in range(8):
        queue.end("a")
        flow = queue.next({"a": 8})
        assert flow is not None
        order.append(queue.begin(flow))
    assert order.count(B) == 4


def test_flows_share_one_slot_in_turn() -> None:
    assert served(queued(A, B), 1, 6, {}) == [A, B, A, B, A, B]


def test_calls_begin_in_proportion_to_the_weights() -> None:
    heavy = Flow("heavy", 3.0)
    counts = Counter(served(queued(A, heavy), 8, 400, {}))
    assert counts[heavy] == 300


def test_a_background_flow_progresses_beside_training() -> None:
    training, background = (
        Flow.of("r", "training", {}),
        Flow.of("r", "background", {}),
    )
    order = served(queued(training, background), 1, 330, {})
    assert Counter(order) == {training: 320, background: 10}
    assert PRIORITY_WEIGHTS["background"] * 32 == PRIORITY_WEIGHTS["training"]


def test_a_share_is_computed_anew_each_time_the_demand_has_doubled() -> None:
    queue: FairQueue[Flow] = FairQueue()
    computed = []
    for i in range(1, 65):
        if queue.push(A, A):
            queue.demand()
            computed.append(i)
    assert computed == [1, 3, 7, 15, 31, 63]


def test_a_flow_takes_what_the_others_leave() -> None:
    assert served(queued(A), 4, 20, {"a": 0, "b": 4}) == [A] * 20


def test_a_flow_without_calls_saves_nothing_up() -> None:
    queue = queued(A)
    served(queue, 1, 100, {})
    queue.end("a")
    queue.push(B, B)
    queue.push(B, B)
    queue.push(B, B)
    assert Counter(served(queue, 1, 4, {})) == {A: 2, B: 2}


def test_calls_of_a_flow_begin_in_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for i in range(3):
        queue.push(A, i)
    queue.remove(A, 1)
    assert len(queue) == 2
    assert [queue.next({}), queue.begin(A)] == [0, 0]
    assert queue.next({}) == 2


def test_demand_is_the_most_calls_since_the_last_one_and_forgets_idle_flows() -> None:
    queue = queued(A, calls=3)
    queue.begin(A)
    assert queue.demand() == [("a", 1.0, 3)]
    queue.begin(A)
    queue.begin(A)
    for _ in range(3):
        queue.end("a")
    assert queue.demand() == [("a", 1.0, 3)]
    assert queue.demand() == []


def test_a_weight_comes_from_the_run_and_the_priority() -> None:
    weights = {"r": 2.0}
    assert Flow.of("r", "training", weights).weight == 2.0
    assert Flow.of("other", "training", weights).weight == 1.0
    assert Flow.of("r", "interactive", weights).weight == 32.0
    assert Flow.of("r", "training", weights).name != Flow.of("r", "background", weights).name
