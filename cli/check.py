"""`oyer check`: is everything there that a batch needs?"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from oyer.cli import options
from oyer.cli.output import console, print_json
from oyer.tasks import names
from oyer.tasks.errors import InvalidConfig, OyerError

if TYPE_CHECKING:
    from redis import Redis

    from oyer.tasks.config import EndpointConfig, JudgeConfig, RewardConfig
    from oyer.tasks.judging.calls import Failure, Reply

_PROBE: dict[str, Any] = {
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


def check(config: options.Config = None, as_json: options.AsJson = False) -> None:
    """Look at record, broker, workers and judges: a line each, exit 1 if one fails.

    Each judge is called once from this host, with this host's keys: run it where the workers run.

    Example: `oyer check --config oyer.yaml`
    """
    from oyer.tasks.settings import load_config

    settings = load_config(config)
    findings = []
    for finding in _look(settings):
        findings.append(finding)
        if not as_json:
            mark = "[green]ok  [/]" if finding.ok else "[red]FAIL[/]"
            line = f"{mark} {finding.what}: {escape(finding.detail)}"
            console.print(line, highlight=False, soft_wrap=True)
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "checks": [vars(finding) for finding in findings]})
    if not ok:
        raise typer.Exit(1)


def _look(settings: "RewardConfig") -> Iterator[Finding]:
    import redis

    from oyer.manager.local import running_broker

    yield _guarded("store", partial(_store, settings.store.url))
    broker_url = None
    try:
        url = settings.broker.url or running_broker()
    except InvalidConfig as error:
        yield Finding("broker", False, str(error))
    else:
        with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
            broker = _guarded("broker", partial(_broker, client))
            yield broker
            broker_url = url if broker.ok else None
            for queue in names.QUEUES if broker.ok else ():
                yield _guarded(f"workers on {queue}", partial(_workers, client, queue))
    for judge in settings.judges:
        yield _guarded(f"judge {judge.name}", partial(_judge, judge, settings, broker_url))


def _guarded(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except OyerError as error:
        return Finding(what, False, str(error))


def _store(url: str) -> str:
    from oyer import migrations
    from oyer.cli.store import NO_RECORD, explained

    with explained(url):
        now, head = migrations.current(url), migrations.head()
    if now is None:
        raise InvalidConfig(NO_RECORD)
    if now != head:
        raise InvalidConfig(f"is at {now}, this release needs {head}; run `oyer db upgrade`")
    return f"at revision {now}"


def _broker(client: "Redis") -> str:
    from redis import RedisError

    try:
        return f"Redis {client.info('server')['redis_version']} answers"
    except RedisError as error:
        raise InvalidConfig(
            f"Redis does not answer ({error}); start it, or set broker.url to the workers' one"
        ) from error


def _workers(client: "Redis", queue: str) -> str:
    from oyer.tasks import presence

    found = presence.workers(client)[queue]
    if not found:
        raise InvalidConfig(f"none; start one with `oyer worker {queue}` or `oyer up`")
    lines = [f"{entry['host']}:{entry['pid']}" for entry in found]
    devices = {entry["device"] for entry in found if entry.get("device")}
    where = f" on {', '.join(sorted(devices))}" if devices else ""
    return f"{len(found)} ({', '.join(lines)}){where}"


def _judge(judge: "JudgeConfig", settings: "RewardConfig", broker_url: str | None) -> str:
    from oyer.tasks.judging.calls import Failure
    from oyer.tasks.judging.reading import read_score
    from oyer.tasks.statuses import Status

    endpoint = settings.endpoints.get(judge.endpoint)
    if endpoint is None:
        raise InvalidConfig(
            f"endpoint {judge.endpoint!r} is not in this host's configuration; run the check where"
            " the judge workers run"
        )
    reply, learnt = _asked(judge, endpoint, settings, broker_url)
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
    sent = f"; the endpoint refuses some fields, so requests are sent {learnt}" if learnt else ""
    took_ms = f"{reply.latency_ms:.0f} ms"
    return f"{judge.model} at {judge.endpoint} gives {reading.score:g} in {took_ms}{sent}"


def _asked(
    judge: "JudgeConfig",
    endpoint: "EndpointConfig",
    settings: "RewardConfig",
    broker_url: str | None,
) -> "tuple[Reply | Failure, str]":
    """Ask a judge once as the workers do; says how requests differ from the configured ones."""
    from oyer.tasks.judging.client import EndpointClient
    from oyer.tasks.judging.jobs import jobs_of
    from oyer.tasks.judging.lessons import Lessons, complete
    from oyer.tasks.judging.parameters import described
    from oyer.tasks.judging.shared import connect
    from oyer.tasks.payloads import Rollout

    client = EndpointClient(judge.endpoint, endpoint, os.environ)
    redis = connect(broker_url) if broker_url else None
    lessons = Lessons(judge.endpoint, endpoint, redis)
    job = next(jobs_of({0: Rollout(**_PROBE)}, [judge], settings.reward, {}))
    assert job.request is not None
    try:
        reply = complete(client, job.request, lessons, timeout_s=endpoint.timeout_s)
        return reply, described(lessons.refused(judge.model))
    finally:
        if redis is not None:
            redis.close()
        client.close()
