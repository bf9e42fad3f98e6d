"""A batch over a Unix socket; a Redis cluster is refused. Sentinel: tests/faults/test_sentinel.py."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from oyer.manager import InvalidConfig, RewardManager
from tests.support import services
from tests.support.cli_process import oyer
from tests.support.rollouts import rollouts_of
from tests.support.scripted_backend import scripted_backend

N = 8


def test_a_batch_over_a_unix_socket(tmp_path: Path) -> None:
    path, password = tmp_path / "redis.sock", "p@ss:word"
    url = f"unix://:{quote(password)}@{path}?db=2"
    with (
        services.redis_server("--unixsocket", str(path)),
        redis.Redis(unix_socket_path=str(path)) as admin,
    ):
        admin.config_set("requirepass", password)
        with scripted_backend(tmp_path, broker={"url": url}) as (manager, _):
            batch = manager.submit(rollouts_of("socket", N)).result(timeout_s=120)
            assert batch.statuses == ["scored"] * N
            assert list(admin.info("keyspace")) == ["db2"]


def test_a_cluster_is_refused_by_trainer_worker_and_check(tmp_path: Path) -> None:
    refusal = "broker.url: this Redis is in cluster mode"
    with services.redis_server("--cluster-enabled", "yes") as url:
        config = {"broker": {"url": url}, "length": {"method": "median_band"}}
        with RewardManager(config) as manager, pytest.raises(InvalidConfig, match=refusal):
            manager.submit(rollouts_of("cluster", N))
        with pytest.raises(InvalidConfig, match=refusal):
            RewardManager.local(config)
        worker = oyer("worker", "combine", cwd=tmp_path, OYER_BROKER__URL=url)
        assert worker.returncode == os.EX_CONFIG
        assert refusal in worker.stderr
        check = oyer("check", cwd=tmp_path, OYER_BROKER__URL=url)
        assert check.returncode == 1
        assert refusal.removeprefix("broker.url: ") in check.stdout + check.stderr
