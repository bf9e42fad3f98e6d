"""TLS and passwords in URLs of Redis and PostgreSQL; no password is shown anywhere."""

import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from oyer import migrations
from oyer.demo.judge_server import JudgeServer
from oyer.manager import BackendUnavailable, InvalidConfig, RewardManager
from oyer.migrations import roles
from oyer.models import Base
from tests.integration.test_secrets import in_redis
from tests.security.conftest import logs_in
from tests.support.certificates import Authority
from tests.support.cli_process import environment, oyer
from tests.support.fault_servers import PostgresServer, RedisServer
from tests.support.paths import ROOT
from tests.support.rollouts import rollouts_of
from tests.support.services import PostgresCluster, postgres_cluster
from tests.support.tls_tunnel import Tunnel, tunnel

SENTINEL = "PLANTED7q"
REDIS_USER = "oyer@lab:1"
REDIS_PASSWORD = f"{SENTINEL}-redis p@ss:w/rd?#%&+=é"
SQL_USER = "oyer worker@lab"
SQL_PASSWORD = f"{SENTINEL}-sql p@ss:w/rd?#%&+='"

ACL = ("~*", "&*", "+@all", "-@dangerous", "+info")
"""What docs/security.md gives the Redis user of Oyer."""


@dataclass(frozen=True)
class Guarded:
    """A backend behind TLS and passwords."""

    manager: RewardManager
    folder: Path
    redis: RedisServer
    postgres: PostgresServer
    redis_tunnel: Tunnel
    sql_tunnel: Tunnel
    foreign: Authority
    other_name: Tunnel
    """In front of the same Redis, with a certificate for another host."""

    def url(self, **changes: str) -> str:
        """Give the broker's URL, with changes of its parts."""
        return _changed(str(self.manager.config.broker.url), changes)

    def config_file(self, name: str, **changes: Any) -> Path:
        """Write the configuration to a file."""
        config = self.manager.config.model_dump(mode="json")
        for section, keys in changes.items():
            config[section] = {**config[section], **keys}
        path = self.folder / name
        path.write_text(json.dumps(config))
        return path


def _changed(url: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in url
        url = url.replace(old, new)
    return url


def _secret(text: str) -> bool:
    """Whether a text holds a password, plain or encoded in a URL."""
    return SENTINEL in text


@pytest.fixture(scope="session")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, session_judge: JudgeServer
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority, foreign = Authority(folder, "authority"), Authority(folder, "foreign")
    identity = authority.issue("127.0.0.1")
    redis_server = RedisServer(folder / "redis")
    with ExitStack() as stack:
        postgres = _postgres(stack.enter_context(postgres_cluster()))
        for server in (redis_server, postgres):
            server.start()
            stack.callback(server.stop)
        redis_server.client.execute_command(
            "ACL", "SETUSER", REDIS_USER, "on", f">{REDIS_PASSWORD}", *ACL
        )
        _prepare(postgres)
        host, port = redis_server.url.removeprefix("redis://").partition("/")[0].split(":")
        behind = (host, int(port))
        to_redis = stack.enter_context(tunnel(behind, identity))
        other = stack.enter_context(tunnel(behind, authority.issue("redis.example")))
        to_sql = stack.enter_context(tunnel(postgres.socket, identity))
        config = {
            "endpoints": {"fake": {"base_url": session_judge.base_url}},
            "judges": [{"name": "q", "endpoint": "fake", "model": "m"}],
            "length": {"method": "median_band"},
            "broker": {
                "url": f"rediss://{quote(REDIS_USER, safe='')}:{quote(REDIS_PASSWORD, safe='')}"
                f"@127.0.0.1:{to_redis.port}/0?ssl_cert_reqs=required"
                f"&ssl_ca_certs={quote(str(authority.cert), safe='')}"
            },
            "store": {
                "url": f"postgresql://{quote(SQL_USER, safe='')}:{quote(SQL_PASSWORD, safe='')}"
                f"@127.0.0.1:{to_sql.port}/postgres?sslmode=verify-full"
                f"&sslrootcert={quote(str(authority.cert), safe='')}"
            },
        }
        manager = stack.enter_context(RewardManager.local(config, folder=folder, judge_processes=1))
        yield Guarded(manager, folder, redis_server, postgres, to_redis, to_sql, foreign, other)


def _postgres(cluster: PostgresCluster) -> PostgresServer:
    """A server that requires a password from all users except the administrator."""
    access = cluster.data / "pg_hba.conf"
    access.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    return PostgresServer(cluster)


def _prepare(postgres: PostgresServer) -> None:
    """Create the schema and the workers' role with its least privileges."""
    migrations.upgrade(postgres.url)
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("SET password_encryption = 'scram-sha-256'")
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(SQL_USER), sql.Literal(SQL_PASSWORD)
            )
        )
    roles.apply(postgres.url, [SQL_USER], [])


def test_a_batch_is_scored_through_tls_by_the_users_that_the_urls_name(
    guarded: Guarded, judge: JudgeServer
) -> None:
    batch = guarded.manager.submit(rollouts_of("tls", 64)).result(timeout_s=60)
    assert batch.statuses == ["scored"] * 64
    clients: Any = guarded.redis.client.client_list()
    mine = guarded.redis.client.client_id()
    users = {client["user"] for client in clients if int(client["id"]) != mine}
    assert users == {REDIS_USER}
    assert guarded.redis_tunnel.opened >= 5
    query = "SELECT DISTINCT usename FROM pg_stat_activity WHERE backend_type = 'client backend'"
    assert (SQL_USER,) in guarded.postgres.execute(query)
    assert guarded.sql_tunnel.opened >= 2


def test_resumed_and_recalled_batches_need_no_further_privilege(guarded: Guarded) -> None:
    future = guarded.manager.submit(rollouts_of("recalled", 4))
    first = future.result(timeout_s=60)
    config = guarded.config_file("roles.json")
    resumed = oyer("batches", "resume", first.id, "--config", str(config), cwd=guarded.folder)
    assert "4 of 4 rollouts have a reward" in resumed.stdout
    # A result that is gone from Redis is read from the record.
    from oyer.manager.backend.connection import backend

    guarded.redis.client.delete(f"celery-task-meta-{first.id}")
    backend(*future._broker).resubmit(first.id, "gone")
    assert type(future).from_ticket(future.ticket).result(timeout_s=60).id == first.id


def test_the_checks_reach_everything_and_show_no_password(guarded: Guarded) -> None:
    config = str(guarded.config_file("check.json"))
    for command in (
        ("check", "--config", config),
        ("check", "--json", "--config", config),
        ("worker", "alive", "combine", "--config", config),
        ("batches", "list", "--config", config),
        ("db", "current", "--config", config),
        ("config",),
    ):
        done = oyer(*command, cwd=guarded.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not _secret(done.stdout + done.stderr)


def test_celery_s_own_commands_show_no_password(guarded: Guarded) -> None:
    environ = environment(OYER_CONFIG=str(guarded.config_file("celery.json")))
    for command in (
        ["report"],
        ["inspect", "stats", "--timeout", "5"],
        ["inspect", "conf", "--timeout", "5"],
        ["worker", "--help"],
    ):
        argv = [sys.executable, "-m", "celery", "-A", "oyer.tasks", *command]
        done = subprocess.run(
            argv, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert not _secret(done.stdout + done.stderr), command
        if command == ["report"]:
            assert "broker_url" in done.stdout


def test_the_banner_of_a_worker_that_celery_starts_shows_no_password(guarded: Guarded) -> None:
    environ = environment(OYER_CONFIG=str(guarded.config_file("banner.json")))
    argv = [sys.executable, "-m", "celery", "-A", "oyer.tasks", "worker", "-Q", "combine"]
    argv += ["-P", "solo", "-n", "banner@%h", "--loglevel", "INFO"]
    with subprocess.Popen(
        argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as worker:
        assert worker.stdout is not None
        lines = []
        for line in worker.stdout:
            lines.append(line)
            if " ready." in line:
                break
        worker.terminate()
        lines += worker.stdout.readlines()
    output = "".join(lines)
    assert "transport:" in output
    assert not _secret(output)


def test_nothing_kept_or_logged_holds_a_password(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guarded.manager.submit(rollouts_of("kept", 8)).result(timeout_s=60)
    assert not _secret(logs_in(guarded.folder))
    assert not _secret(caplog.text)
    assert not any(map(_secret, in_redis(guarded.redis.url)))
    with psycopg.connect(guarded.postgres.url) as conn:
        for table in Base.metadata.tables:
            rows = conn.execute(f"SELECT * FROM {table}".encode()).fetchall()
            assert not _secret(repr(rows)), table
    assert not _secret(repr(guarded.manager.config))
    assert (guarded.folder / "oyer.json").stat().st_mode & 0o077 == 0


def test_the_documents_give_the_user_of_redis_what_these_tests_gave_it() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    assert f"ACL SETUSER oyer on >password {' '.join(ACL)}" in text


Fault = Callable[[Guarded], dict[str, Any]]

FAULTS: list[tuple[str, Fault, str]] = [
    (
        "foreign authority, Redis",
        lambda g: {"broker": {"url": g.url(**{"authority.pem": "foreign.pem"})}},
        "certificate verify failed",
    ),
    (
        "another host's certificate, Redis",
        lambda g: {"broker": {"url": g.url(**{str(g.redis_tunnel.port): str(g.other_name.port)})}},
        "certificate verify failed: IP address mismatch",
    ),
    (
        "wrong password, Redis",
        lambda g: {"broker": {"url": g.url(**{"-redis": "-wrong"})}},
        "refuses the user or password of broker.url",
    ),
    (
        "no TLS, Redis",
        lambda g: {"broker": {"url": g.url(**{"rediss:": "redis:"}).partition("?")[0]}},
        "Redis does not answer",
    ),
    (
        "foreign authority, PostgreSQL",
        lambda g: {
            "store": {"url": _changed(g.manager.config.store.url, {"authority.pem": "foreign.pem"})}
        },
        "certificate verify failed",
    ),
    (
        "another name, PostgreSQL",
        lambda g: {
            "store": {"url": _changed(g.manager.config.store.url, {"@127.0.0.1": "@localhost"})}
        },
        "does not match host name",
    ),
    (
        "wrong password, PostgreSQL",
        lambda g: {"store": {"url": _changed(g.manager.config.store.url, {"-sql": "-wrong"})}},
        "password authentication failed",
    ),
]


@pytest.mark.parametrize(("change", "reason"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_failed_check_of_identity_is_reported_with_its_reason(
    guarded: Guarded, change: Fault, reason: str
) -> None:
    config = guarded.config_file("fault.json", **change(guarded))
    done = oyer("check", "--config", str(config), cwd=guarded.folder)
    assert done.returncode == 1
    assert reason in done.stdout
    assert "Traceback" not in done.stderr
    assert not _secret(done.stdout + done.stderr)


def test_a_trainer_that_does_not_trust_the_broker_sends_nothing(guarded: Guarded) -> None:
    url = guarded.url(**{"authority.pem": "foreign.pem"})
    config = guarded.manager.config.model_dump(mode="json")
    config["broker"]["url"] = url
    with pytest.raises(BackendUnavailable, match="certificate verify failed") as raised:
        RewardManager(config).submit(rollouts_of("untrusted", 4))
    assert not _secret("".join(traceback.format_exception(raised.value)))


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ("broker", f"reddis://user:{SENTINEL}@host/0"),
        ("broker", f"rediss://user:{SENTINEL}@host/0"),
        ("store", f"mysql://user:{SENTINEL}@host/db"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(section: str, url: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        RewardManager({"judges": [], section: {"url": url}})
    assert not _secret("".join(traceback.format_exception(raised.value)))
