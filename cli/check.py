"""`oyer check`: tests everything that a batch needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from oyer.cli.support import options
from oyer.cli.support.output import console, print_json
from oyer.protocol import names
from oyer.protocol.errors import InvalidConfig, OyerError

if TYPE_CHECKING:
    from redis import Redis

    from oyer.config.reward import RewardConfig


class Skipped(Exception):
    """The check does not apply to this host; the message says why."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    ok: bool
    detail: str
    """What was found, or the fix."""
    skipped: bool = False
    """Whether the check does not apply to this host; `ok` is then true."""
    note: bool = False
    """Whether it is advice only; `ok` is then true."""


def check(config: options.Config = None, as_json: options.AsJson = False) -> None:
    """Check the record, broker, workers and judges; exit code 1 if a check fails.

    One rollout is sent through the workers to each judge, and a right and a wrong response to a
    group judge, under the run `oyer-check`, so that the workers' endpoints and keys are tested. If no
    workers run, the judges are called from this host. `skip` marks checks that do not apply to this
    host, `note` is advice.

    Example: `oyer check --config oyer.yaml`
    """
    from oyer.config.loading import load_config

    settings = load_config(config)
    findings = []
    for finding in _checks(settings):
        findings.append(finding)
        if not as_json:
            mark = "[red]FAIL[/]" if not finding.ok else "[green]ok  [/]"
            mark = "[yellow]skip[/]" if finding.skipped else mark
            mark = "[yellow]note[/]" if finding.note else mark
            line = f"{mark} {finding.what}: {escape(finding.detail)}"
            console.print(line, highlight=False, soft_wrap=True)
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "checks": [vars(finding) for finding in findings]})
    if not ok:
        raise typer.Exit(1)


def _checks(settings: "RewardConfig") -> Iterator[Finding]:
    from oyer.local.state import running_broker
    from oyer.protocol.redis_client import connect

    yield _guarded("store", partial(_store, settings))
    there, broker_url = False, None
    try:
        url = settings.broker.url or running_broker()
    except InvalidConfig as error:
        yield Finding("broker", False, str(error))
    else:
        with connect(url, timeout_s=5) as client:
            broker = _guarded("broker", partial(_broker, client))
            yield broker
            found = []
            if broker.ok:
                yield _guarded("broker memory", partial(_memory, client))
                found = [
                    _guarded(f"workers on {queue}", partial(_workers, client, queue, settings))
                    for queue in names.QUEUES
                ]
                yield from found
            there = bool(found) and all(finding.ok for finding in found)
            broker_url = url if broker.ok else None
    yield from _judges(settings, there=there, broker_url=broker_url)
    yield from _compound(settings)


def _judges(settings: "RewardConfig", *, there: bool, broker_url: str | None) -> Iterator[Finding]:
    """Check the judges through the workers, or from this host if a kind of worker is missing."""
    from oyer.cli.support import probing

    if there and settings.length and not settings.judges:
        yield _guarded("rewards", partial(probing.through_workers, settings, None))
    for judge in probing.judges_of(settings):
        probe: Callable[[], str]
        if there:
            probe = partial(probing.through_workers, settings, judge, broker_url)
        elif judge.endpoint in settings.endpoints:
            probe = partial(probing.directly, settings, judge, broker_url)
        else:
            probe = partial(_elsewhere, judge.endpoint)
        yield _guarded(f"judge {judge.name}", probe)


def _compound(settings: "RewardConfig") -> Iterator[Finding]:
    from oyer.config.criteria.compound import compound_criteria

    for judge in settings.judges:
        for name, joint in compound_criteria(judge).items():
            detail = (
                f"criterion {name!r} asks for several things ({joint!r}); one verdict does not say which"
                " failed, and policies learn to exploit that: give each a criterion of its own"
            )
            yield Finding(f"judge {judge.name}", True, detail, note=True)


def _elsewhere(endpoint: str) -> str:
    raise Skipped(f"endpoint {endpoint!r} is in the configuration of the judge workers only")


def _guarded(what: str, probe: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, probe())
    except Skipped as error:
        return Finding(what, True, str(error), skipped=True)
    except OyerError as error:
        return Finding(what, False, str(error))


def _store(settings: "RewardConfig") -> str:
    from oyer import migrations
    from oyer.cli.support.database import NO_RECORD, explained
    from oyer.models.engine import has_database

    url = settings.store.url
    with explained(url):
        elsewhere = settings.broker.url and "url" not in settings.store.model_fields_set
        if elsewhere and not has_database(url):
            raise Skipped("store.url is not set here; the workers' configuration has it")
        now, head = migrations.current(url), migrations.head()
    if now is None:
        raise InvalidConfig(NO_RECORD)
    if now != head:
        raise InvalidConfig(f"is at {now}, this release needs {head}; run `oyer db upgrade`")
    return f"at revision {now}"


def _broker(client: "Redis") -> str:
    from redis import RedisError

    from oyer.protocol.redis_client import refuse_cluster, unreachable

    try:
        refuse_cluster(client)
        return f"Redis {client.info('server')['redis_version']} answers"
    except RedisError as error:
        raise InvalidConfig(
            unreachable(error, "start it, or set broker.url to the workers' one")
        ) from error


def _memory(client: "Redis") -> str:
    """Check the eviction policy of Redis; a managed Redis may allow INFO but not CONFIG."""
    from redis import RedisError

    try:
        policy = client.info("memory").get("maxmemory_policy")
    except RedisError as error:
        raise Skipped(
            f"maxmemory-policy cannot be read ({error}); it must be noeviction"
        ) from error
    if policy is None:
        raise Skipped("this server does not report its maxmemory-policy; it must be noeviction")
    if policy != "noeviction":
        raise InvalidConfig(
            f"maxmemory-policy is {policy}, so that Redis may evict messages and payloads of"
            " unfinished batches; set it to noeviction (`redis-cli CONFIG SET maxmemory-policy noeviction`"
            " and in redis.conf, or in the parameter group of a managed Redis)"
        )
    return "maxmemory-policy is noeviction"


def _workers(client: "Redis", queue: str, settings: "RewardConfig") -> str:
    from oyer.protocol.measuring import live_workers

    found = live_workers.workers(client)[queue]
    if not found:
        if queue == names.LENGTH_QUEUE and not settings.length:
            raise Skipped("none, and no length method is configured")
        if queue == names.JUDGE_QUEUE and not settings.judges:
            raise Skipped("none, and no judge is configured")
        raise InvalidConfig(f"none; start one with `oyer worker {queue}` or `oyer up`")
    lines = [f"{entry['host']}:{entry['pid']}" for entry in found]
    devices = {entry["device"] for entry in found if entry.get("device")}
    where = f" on {', '.join(sorted(devices))}" if devices else ""
    return f"{len(found)} ({', '.join(lines)}){where}"
