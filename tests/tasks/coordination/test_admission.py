"""Which flows a judge worker takes chunks of; pure."""

import pytest

from oyer.protocol.names import FLOW_HEADER, flow_header
from oyer.tasks.coordination.admission import Admission, flow_of, task_id_of


def flow(run: str, *endpoints: str) -> str:
    header = flow_header(run, "training", endpoints, 1)
    return str(header[FLOW_HEADER]["flow"])


def admission(slots: int = 100) -> Admission:
    return Admission(slots, lambda endpoints: 10 * len(endpoints))


def test_a_flow_is_full_once_its_calls_fill_the_lookahead_of_its_endpoints() -> None:
    chunks = admission()
    one, two = flow("a", "e"), flow("a", "e", "f")
    for name in (one, two):
        chunks.begin(f"{name} 1", name, 10)
    assert chunks.full_flows() == [one]
    chunks.begin(f"{two} 2", two, 10)
    assert set(chunks.full_flows()) == {one, two}


def test_a_flow_is_taken_again_as_its_calls_end() -> None:
    chunks = admission()
    name = flow("a", "e")
    chunks.begin("t", name, 12)
    chunks.load("t").calls -= 2
    assert chunks.full_flows() == [name]
    chunks.load("t").calls -= 1
    assert chunks.full_flows() == []


def test_a_flow_leaves_slots_for_others() -> None:
    chunks = admission(slots=9)
    taken = 0
    while "" not in chunks.full_flows():
        chunks.begin(f"t{taken}", "", -1)
        taken += 1
    assert (taken, chunks.free) == (6, 3)
    chunks.end("t0")
    assert chunks.full_flows() == []


def test_a_single_slot_is_used() -> None:
    chunks = admission(slots=1)
    assert chunks.free == 1
    chunks.begin("t", flow("a", "e"), 1)
    assert chunks.free == 0


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {FLOW_HEADER: None},
        {FLOW_HEADER: {"flow": 1, "calls": 1}},
        {FLOW_HEADER: {"flow": "x", "calls": "1"}},
    ],
)
def test_a_message_without_a_flow_shares_one(headers: object) -> None:
    assert flow_of(headers) == ("", 1)


@pytest.mark.parametrize("name", ["", "x", "[]", "{}", "[1, 2, 3]", '["r", "p", [1]]'])
def test_a_flow_of_another_form_has_no_endpoints(name: str) -> None:
    chunks = admission()
    chunks.begin("t", name, 0)
    assert chunks.full_flows() == [name]


def test_a_header_names_run_priority_and_endpoints() -> None:
    header = flow_header("r", "background", ["b", "a", "b"], 3)
    assert flow_of(header) == ('["r", "background", ["a", "b"]]', 3)


def test_a_task_id_is_read_from_any_headers() -> None:
    assert [task_id_of(headers) for headers in (None, {}, {"id": "t"})] == ["", "", "t"]
