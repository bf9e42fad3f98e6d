"""Each action of the judge server over real sockets."""

import hashlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry, max_in_flight
from oyer.demo.responses import ACTIONS, Action, named
from oyer.protocol.errors import InvalidConfig

PATH = "/v1/chat/completions"
BODY = json.dumps(
    {
        "model": "judge-1",
        "messages": [
            {"role": "system", "content": "Judge the response."},
            {"role": "user", "content": "```\n2 + 2?\n```\n```\n4\n```\n```\n2 + 2 = 4\n```"},
        ],
    }
)
REQUEST = f"POST {PATH} HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


def connect(server: JudgeServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)


def ask(
    server: JudgeServer, body: str = BODY, path: str = PATH, method: str = "POST"
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = connect(server)
    try:
        connection.request(method, path, body, {"Authorization": "Bearer sk-planted"})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def exchange(server: JudgeServer, sent: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


def finished(log: list[RequestEntry]) -> bool:
    return bool(log) and all(arrival.finished_at_s is not None for arrival in log)


@pytest.mark.parametrize("name", [name for name, action in ACTIONS.items() if not action.fault])
def test_every_action_without_a_fault_is_sent_and_logged(server: JudgeServer, name: str) -> None:
    server.set_plan(named(name))
    response, body = ask(server)
    (arrival,) = server.requests
    assert response.status == arrival.status == ACTIONS[name].status
    assert arrival.action == name
    assert len(body) == int(response.headers["Content-Length"])
    assert response.headers["x-request-id"] == "req-0"


def test_a_connection_can_be_reset_before_the_reply(server: JudgeServer) -> None:
    server.set_plan(named("reset"))
    with pytest.raises(ConnectionResetError):
        ask(server)
    assert server.requests[0].status is None


def test_a_connection_can_be_closed_before_the_reply(server: JudgeServer) -> None:
    server.set_plan(named("close"))
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server)


def test_a_connection_can_be_reset_in_the_middle_of_the_body(server: JudgeServer) -> None:
    server.set_plan(named("reset_mid_body"))
    connection = connect(server)
    connection.request("POST", PATH, BODY)
    response = connection.getresponse()
    assert response.status == 200
    with pytest.raises(ConnectionResetError):
        response.read()
    connection.close()


def test_a_body_can_be_shorter_than_announced(server: JudgeServer) -> None:
    server.set_plan(named("short_body"))
    with pytest.raises(http.client.IncompleteRead):
        ask(server)


def test_half_a_json_is_a_whole_reply(server: JudgeServer) -> None:
    server.set_plan(named("half_json"))
    response, body = ask(server)
    assert len(body) == int(response.headers["Content-Length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_a_reply_can_be_sent_in_small_pieces(server: JudgeServer) -> None:
    server.set_plan(named("drip", drip_bytes=100, drip_pause_s=0.001))
    assert json.loads(ask(server)[1])["object"] == "chat.completion"
    server.set_plan(named("drip", drip_bytes=100, drip_pause_s=3600))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(REQUEST)
        assert len(client.recv(65536)) == 100
        assert server.requests[1].finished_at_s is None


def test_a_black_hole_never_answers_and_ends_with_its_client(server: JudgeServer) -> None:
    server.set_plan(named("black_hole"))
    connection = connect(server)
    connection.request("POST", PATH, BODY)
    server.wait_until(lambda log: len(log) == 1)
    assert server.requests[0].finished_at_s is None
    connection.close()
    server.wait_until(finished)
    assert server.requests[0].status is None


def test_a_disconnected_client_ends_its_request(server: JudgeServer) -> None:
    server.set_plan(Action(latency_s=3600))
    connection = connect(server)
    connection.request("POST", PATH, BODY)
    server.wait_until(lambda log: len(log) == 1)
    connection.close()
    server.wait_until(finished)
    server.set_plan(Action())
    assert ask(server)[0].status == 200
    assert [arrival.in_flight for arrival in server.requests] == [1, 1]


def test_held_requests_are_answered_on_release(server: JudgeServer) -> None:
    server.set_plan(Action(hold=True, text="held"))
    connections = [connect(server) for _ in range(3)]
    for connection in connections:
        connection.request("POST", PATH, BODY)
    server.wait_until(lambda log: len(log) == 3)
    assert not any(arrival.finished_at_s for arrival in server.requests)
    server.release()
    for connection in connections:
        assert connection.getresponse().status == 200
        connection.close()
    assert max_in_flight(server.requests) == 3
    assert [arrival.in_flight for arrival in server.requests] == [1, 2, 3]


def test_latency_passes_between_arrival_and_reply(server: JudgeServer) -> None:
    server.set_plan(Action(latency_s=lambda: 0.05))
    ask(server)
    (arrival,) = server.requests
    assert arrival.finished_at_s is not None
    assert arrival.finished_at_s - arrival.arrived_at_s >= 0.05


def test_pipelined_requests_are_answered_in_order(server: JudgeServer) -> None:
    server.set_plan(lambda a: Action(text=f"reply {a.sequence}", latency_s=0.01 * (2 - a.sequence)))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(REQUEST * 3)
        received = b""
        while received.count(b"total_tokens") < 3:
            received += client.recv(65536)
    assert re.findall(rb"reply \d", received) == [b"reply 0", b"reply 1", b"reply 2"]
    assert [arrival.in_flight for arrival in server.requests] == [1, 1, 1]


def test_a_connection_is_kept_for_the_next_request(server: JudgeServer) -> None:
    connection = connect(server)
    ports = set()
    for _ in range(2):
        connection.request("POST", PATH, BODY)
        connection.getresponse().read()
        ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(ports) == 1


@pytest.mark.parametrize("head", [b"HTTP/1.0", b"HTTP/1.1\r\nConnection: close"])
def test_a_connection_is_closed_where_the_client_wants_it(server: JudgeServer, head: bytes) -> None:
    assert b"demo-judge" in exchange(server, b"GET /v1/models " + head + b"\r\n\r\n")


def test_a_chunked_request_is_read(server: JudgeServer) -> None:
    connection = connect(server)
    connection.request("POST", PATH, iter([BODY[:50].encode(), BODY[50:].encode()]))
    assert connection.getresponse().status == 200
    connection.close()
    assert server.requests[0].body == BODY.encode()


def test_bytes_that_are_not_http_get_400_and_a_close(server: JudgeServer) -> None:
    assert exchange(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert server.requests == []


def test_models_are_listed_and_other_routes_are_not_found(server: JudgeServer) -> None:
    response, body = ask(server, "", "/any/v1/models", "GET")
    assert response.status == 200
    assert json.loads(body)["data"][0]["id"] == "demo-judge"
    assert ask(server, "", "/v1/embeddings")[0].status == 404
    assert ask(server, "", PATH, "GET")[0].status == 404
    assert [arrival.status for arrival in server.requests] == [200, 404, 404]


def test_the_log_has_the_request_without_the_key(server: JudgeServer) -> None:
    before_s = time.monotonic()
    ask(server)
    (arrival,) = server.requests
    assert (arrival.method, arrival.path, arrival.model) == ("POST", PATH, "judge-1")
    assert arrival.body == BODY.encode()
    assert arrival.body_sha256 == hashlib.sha256(BODY.encode()).hexdigest()
    assert "authorization" in arrival.header_names
    assert arrival.authorization_sha256 == hashlib.sha256(b"Bearer sk-planted").hexdigest()
    assert arrival.finished_at_s is not None
    assert before_s <= arrival.arrived_at_s <= arrival.finished_at_s <= time.monotonic()
    assert arrival.prompt_tokens == -(-len(BODY) // 4)
    assert "sk-planted" not in json.dumps(arrival.record())


def test_a_long_body_is_logged_by_its_hash_only() -> None:
    with JudgeServer(body_limit_bytes=len(BODY) - 1) as server:
        assert ask(server)[0].status == 200
        (arrival,) = server.requests
    assert arrival.body is None
    assert arrival.body_sha256 == hashlib.sha256(BODY.encode()).hexdigest()


def test_reset_clears_the_log_and_restarts_the_counters_of_the_plan(server: JudgeServer) -> None:
    server.set_plan({"rules": [{"when": {"first_of_body": 1}, "then": "unavailable"}]})
    assert [ask(server)[0].status for _ in range(2)] == [503, 200]
    server.reset()
    assert server.requests == []
    assert [ask(server)[0].status for _ in range(2)] == [503, 200]
    assert [arrival.sequence for arrival in server.requests] == [0, 1]


def test_a_plan_is_changed_and_the_log_read_over_http(server: JudgeServer) -> None:
    assert ask(server, '{"default": "conflict"}', "/control/plan")[0].status == 200
    assert ask(server)[0].status == 409
    log = json.loads(ask(server, "", "/control/log", "GET")[1])["arrivals"]
    assert [RequestEntry.from_record(record) for record in log] == server.requests
    ask(server, "", "/control/reset")
    assert server.requests == []
    ask(server, '{"default": {"hold": true}}', "/control/plan")
    connection = connect(server)
    connection.request("POST", PATH, BODY)
    server.wait_until(lambda log: len(log) == 1)
    ask(server, "", "/control/release")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("plan", ["{", '{"default": "sulk"}', "[]"])
def test_an_invalid_plan_is_refused_and_the_old_one_stays(server: JudgeServer, plan: str) -> None:
    server.set_plan(named("conflict"))
    assert ask(server, plan, "/control/plan")[0].status == 400
    with pytest.raises(InvalidConfig):
        server.set_plan({"default": "sulk"})
    assert ask(server)[0].status == 409
    assert ask(server, "", "/control/unknown")[0].status == 404


def test_an_error_in_a_plan_is_raised_when_the_server_ends() -> None:
    def plan(arrival: RequestEntry) -> Action:
        raise LookupError(f"no reply for {arrival.sequence}")

    with (
        pytest.raises(LookupError, match="no reply for 0"),
        JudgeServer(plan) as server,
        pytest.raises(http.client.RemoteDisconnected),
    ):
        ask(server)


def test_a_port_in_use_is_an_error_and_a_freed_port_can_be_reused(server: JudgeServer) -> None:
    with pytest.raises(OSError, match="address already in use"), JudgeServer(port=server.port):
        pass
    with JudgeServer() as first:
        assert ask(first)[0].status == 200
        open_connection = connect(first)
        open_connection.request("POST", PATH, BODY)
        open_connection.getresponse().read()
    with JudgeServer(port=first.port) as second:
        assert ask(second)[0].status == 200
    open_connection.close()


def test_a_wait_that_times_out_reports_the_arrivals(server: JudgeServer) -> None:
    ask(server)
    with pytest.raises(TimeoutError, match="1 requests have arrived, 0 of them unanswered"):
        server.wait_until(lambda log: len(log) == 2, timeout_s=0.01)
