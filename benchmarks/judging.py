"""Measures the CPU that a judged call costs a worker, against bare clients over the same server.

    python benchmarks/judging.py                          # 2,048 calls, 128 and 512 in flight
    python benchmarks/judging.py --calls 4096 --in-flight 512 --rounds 5
    python benchmarks/judging.py --groups --calls 512     # group judges: calls and CPU per verdict

- Oyer's figure is the CPU time of all judge worker processes, from `/proc`, over a batch whose
  rollouts all differ: limits, cache, single flight, parsing, and a row for each judgement and
  attempt are in it, and so are Celery's messages.
- The peers only call, each in one process on greenlets like the worker's, with as many calls in
  flight and the same body: Oyer's endpoint client, openai-python over its own HTTP stack,
  geventhttpclient, urllib3, and a bare socket.
- Rounds alternate, so that a busy machine slows all alike; the table gives medians, and in
  brackets the ratio to the bare socket.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from common import Figure, backend, judge, print_table, report, rollouts_of, texts
from group_judging import print_groups

from oyer.manager import RewardManager

FOLDER = Path(__file__).parent
LATENCY_S = 0.2


def peer(kind: str, base_url: str, calls: int, in_flight: int) -> float:
    """Make the calls in this process; returns its CPU per call, in seconds."""
    post = PEERS[kind](base_url, in_flight)
    with ThreadPoolExecutor(in_flight) as pool:
        # Connections are opened and code is warm before the clock runs.
        list(pool.map(post, texts(in_flight * 2, "warm")))
        cpu_s = time.process_time()
        list(pool.map(post, texts(calls, "peer")))
        return (time.process_time() - cpu_s) / calls


def _messages(text: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Score the response from 1 to 10."},
        {"role": "user", "content": text},
    ]


def _openai(base_url: str, _in_flight: int) -> Callable[[str], object]:
    import openai

    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)

    def post(text: str) -> object:
        return client.chat.completions.create(
            model="bench",
            messages=_messages(text),  # type: ignore[arg-type]  # plain dicts are what it takes
            temperature=0.0,
            max_tokens=1024,
        )

    return post


def _endpoint_client(base_url: str, in_flight: int) -> Callable[[str], object]:
    from oyer.config.reward import EndpointConfig
    from oyer.tasks.endpoint.client import EndpointClient
    from oyer.tasks.endpoint.types import ChatRequest, Reply

    config = EndpointConfig(base_url=base_url, max_in_flight=in_flight)
    client = EndpointClient("bench", config, {})

    def post(text: str) -> object:
        request = ChatRequest(
            model="bench",
            messages=_messages(text),
            temperature=0.0,
            max_tokens=1024,
        )
        reply = client.complete(request, timeout_s=60.0)
        if not isinstance(reply, Reply):
            raise SystemExit(f"a call failed: {reply}")
        return reply

    return post


def _body(text: str) -> bytes:
    fields = {"model": "bench", "messages": _messages(text), "temperature": 0.0}
    return json.dumps({**fields, "max_tokens": 1024}).encode()


def _geventhttpclient(base_url: str, in_flight: int) -> Callable[[str], object]:
    from geventhttpclient import HTTPClient

    client = HTTPClient.from_url(base_url, concurrency=in_flight, network_timeout=60.0)
    headers = {"Content-Type": "application/json"}

    def post(text: str) -> object:
        reply = client.post("/v1/chat/completions", body=_body(text), headers=headers)
        return json.loads(reply.read())

    return post


def _urllib3(base_url: str, in_flight: int) -> Callable[[str], object]:
    import urllib3

    url = urlsplit(base_url)
    pool = urllib3.HTTPConnectionPool(url.hostname or "", url.port, maxsize=in_flight, block=True)
    path = f"{url.path}/chat/completions"
    headers = {"Content-Type": "application/json"}
    return lambda text: json.loads(
        pool.urlopen("POST", path, body=_body(text), headers=headers).data
    )


def _bare(base_url: str, _in_flight: int) -> Callable[[str], object]:
    url = urlsplit(base_url)
    head = f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: "
    free: list[socket.socket] = []

    def post(text: str) -> object:
        sock = free.pop() if free else socket.create_connection((url.hostname, url.port))
        body = _body(text)
        sock.sendall(b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body))
        data = b""
        while True:
            data += sock.recv(65536)
            reply_head, ends, content = data.partition(b"\r\n\r\n")
            length = reply_head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if ends and len(content) >= int(length):
                free.append(sock)
                return json.loads(content)

    return post


PEERS = {
    "client": _endpoint_client,
    "openai": _openai,
    "geventhttpclient": _geventhttpclient,
    "urllib3": _urllib3,
    "bare": _bare,
}


def peer_process(kind: str, base_url: str, calls: int, in_flight: int) -> float:
    """Run a peer in a process of its own, patched as a judge worker is."""
    argv = [sys.executable, "-W", "ignore", "-m", "gevent.monkey", __file__]
    argv += ["--peer", kind, "--base-url", base_url]
    argv += ["--calls", str(calls), "--in-flight", str(in_flight)]
    # Run as gevent's module, the script's folder is not where Python looks for `common`.
    environ = {**os.environ, "PYTHONPATH": str(FOLDER)}
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, env=environ)
    return float(done.stdout)


def judge_pids(manager: RewardManager) -> list[int]:
    """Process ids of a backend's judge workers."""
    from redis import Redis

    from oyer.protocol.measuring import live_workers

    with Redis.from_url(str(manager.config.broker.url)) as client:
        return [entry["pid"] for entry in live_workers.workers(client)["judge"]]


def cpu_s_of(pids: list[int]) -> float:
    """CPU time that processes have used so far, user and system."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(calls: int, in_flight: int, rounds: int) -> dict[str, list[float]]:
    """Alternate Oyer and its peers; returns CPU seconds per call, by round."""
    figures: dict[str, list[float]] = {"oyer": [], **{kind: [] for kind in PEERS}}
    with (
        tempfile.TemporaryDirectory() as folder,
        judge(LATENCY_S) as url,
        backend(url, in_flight, folder) as manager,
    ):
        pids = judge_pids(manager)

        def judged(tag: str) -> float:
            rollouts = rollouts_of(calls, tag)
            cpu_s = cpu_s_of(pids)
            batch = manager.submit(rollouts, run="bench").result(timeout_s=600)
            if batch.usage.calls != calls or not batch.mask.all():
                raise SystemExit(f"not every rollout was judged once: {batch.usage}")
            return (cpu_s_of(pids) - cpu_s) / calls

        judged("warm")
        for number in range(rounds):
            figures["oyer"].append(judged(f"round {number}"))
            for kind in PEERS:
                figures[kind].append(peer_process(kind, url, calls, in_flight))
    return figures


def main() -> None:
    """Print the table, or one peer's figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=2048)
    parser.add_argument("--in-flight", type=int, help="one setting in place of 128 and 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", action="store_true", help="measure group judges")
    parser.add_argument("--peer", choices=list(PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(peer(options.peer, options.base_url, options.calls, options.in_flight))
        return
    if options.groups:
        print_groups(options.calls, judge_pids, cpu_s_of)
        return
    rows = []
    for in_flight in [options.in_flight] if options.in_flight else [128, 512]:
        figures = measure(options.calls, in_flight, options.rounds)
        medians = [statistics.median(figures[kind]) for kind in figures]
        cells = [f"{cpu_s * 1000:.2f} ({cpu_s / medians[-1]:.1f})" for cpu_s in medians]
        rows.append((str(in_flight), *cells))
        report(
            Figure(
                f"CPU a call at {in_flight} in flight, against {kind}",
                medians[0] * 1000,
                "ms",
                peer=kind,
                peer_value=cpu_s * 1000,
            )
            for kind, cpu_s in zip(PEERS, medians[1:], strict=True)
        )
    print_table(
        f"CPU per call in ms, {options.calls} calls, {options.rounds} rounds",
        (
            "in flight",
            "Oyer, all of it",
            "its client",
            "openai-python",
            "geventhttpclient",
            "urllib3",
            "socket",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
