"""`oyer check`: is everything there that a batch needs?"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import redis
import typer

from oyer.cli.output import console, print_json
from oyer.manager.local import running_broker
from oyer.tasks import names, presence
from oyer.tasks.config import JudgeConfig, RewardConfig
from oyer.tasks.errors import InvalidConfig, OyerError
from oyer.tasks.settings import load_config

_PROBE = {
    "prompt": "What is 2 + 3?",
    "response": "2 + 3 = 5, so the answer is 5.",
    "reference": "5",
}
"""What each judge is asked once, to see that it answers and that its reply can be read."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str
    """What was seen, or the fix."""


def check(
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at broker, record, workers and judges: a line each, exit 1 if one fails.

    Each judge is called once from this host, with this host's keys: run it where the workers run.
    """
    settings = load_config(config)
    findings = []
    for finding in _look(settings):
        findings.append(finding)
        if not as_json:
            mark = "[green]ok  [/]" if finding.ok else "[red]FAIL[/]"
            console.print(f"{mark} {finding.what}: {finding.detail}", highlight=False)
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "checks": [vars(finding) for finding in findings]})
    if not ok:
        raise typer.Exit(1)


def _look(settings: RewardConfig) -> Iterator[Finding]:
    yield _guarded("store", lambda: _store(settings.store.url))
    try:
        url = settings.broker.url or running_broker()
        with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
            yield _guarded("broker", lambda: _broker(client))
            for queue in names.QUEUES:
                yield _guarded(f"workers on {queue}", lambda q=queue: _workers(client, q))
    except InvalidConfig as error:
        yield Finding("broker", False, str(error))
    for judge in settings.judges:
        yield _guarded(f"judge {judge.name}", lambda j=judge: _judge(j, settings))


def _guarded(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except (OyerError, redis.RedisError, OSError) as error:
        return Finding(what, False, str(error))


def _store(url: str) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    from oyer import migrations

    try:
        now, head = migrations.current(url), migrations.head()
    except SQLAlchemyError as error:
        raise InvalidConfig(f"cannot be read ({error}); is store.url right?") from error
    if now != head:
        raise InvalidConfig(
            f"is at {now or 'no revision'}, this release needs {head}; run `oyer db upgrade`"
        )
    return f"at revision {now}"


def _broker(client: redis.Redis) -> str:
    client.ping()
    info = client.info("server")
    return f"Redis {info['redis_version']} answers"


def _workers(client: redis.Redis, queue: str) -> str:
    found = presence.workers(client)[queue]
    if not found:
        raise InvalidConfig(f"none; start one with `oyer worker {queue}` or `oyer up`")
    lines = [f"{entry['host']}:{entry['pid']}" for entry in found]
    devices = {entry["device"] for entry in found if entry.get("device")}
    where = f" on {', '.join(sorted(devices))}" if devices else ""
    return f"{len(found)} ({', '.join(lines)}){where}"


def _judge(judge: JudgeConfig, settings: RewardConfig) -> str:
    from oyer.tasks.judging import rubrics
    from oyer.tasks.judging.calls import ChatRequest, Failure
    from oyer.tasks.judging.client import EndpointClient
    from oyer.tasks.judging.reading import read_score
    from oyer.tasks.statuses import Status

    endpoint = settings.endpoints.get(judge.endpoint)
    if endpoint is None:
        raise InvalidConfig(
            f"endpoint {judge.endpoint!r} is not in this host's configuration; run the check where"
            " the judge workers run"
        )
    client = EndpointClient(judge.endpoint, endpoint, os.environ)
    messages = rubrics.render(rubrics.parse(judge.rubric), scale=judge.scale, **_PROBE)
    request = ChatRequest(
        model=judge.model,
        messages=messages,
        temperature=judge.temperature,
        max_tokens=judge.max_tokens,
        extra_body=judge.extra_body,
    )
    try:
        reply = client.complete(request, timeout_s=endpoint.timeout_s)
    finally:
        client.close()
    if isinstance(reply, Failure):
        raise InvalidConfig(f"{reply.status}: {reply.message}")
    reading = read_score(
        reply.text, scale=judge.scale, finish_reason=reply.finish_reason, refusal=reply.refusal
    )
    if reading.status is not Status.SCORED:
        raise InvalidConfig(
            f"answers, but its reply is {reading.status}: {reply.text[:200]!r}; look at the rubric"
            " and at max_tokens"
        )
    return f"{judge.model} at {judge.endpoint} gives {reading.score:g} in {reply.latency_ms:.0f} ms"
