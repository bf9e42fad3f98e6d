"""The primary behind Sentinel dies while a batch is judged."""

from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import text

from oyer.demo.responses import Action
from oyer.models.engine import open_engine, reading
from tests.support import services
from tests.support.rollouts import rollouts_of
from tests.support.scripted_backend import scripted_backend
from tests.support.sentinel import NAME, PASSWORD, watched_redis

pytestmark = pytest.mark.faults

N = 8


def test_a_batch_outlives_the_failover_of_a_primary_behind_sentinel(tmp_path: Path) -> None:
    with watched_redis(tmp_path) as servers:
        # The first of the sentinels does not run.
        sentinels = f"127.0.0.1:{services.free_port()},127.0.0.1:{servers.sentinel_port}"
        url = f"redis+sentinel://:{quote(PASSWORD, safe='')}@{sentinels}/{NAME}/0"
        changes = {
            "broker": {"url": url},
            "stall_timeout_s": 20,
            "length": {"method": "median_band"},
        }
        with scripted_backend(tmp_path, **changes) as (manager, judge):
            batch = manager.submit(rollouts_of("before", N)).result(timeout_s=120)
            assert batch.statuses == ["scored"] * N
            judge.set_plan(Action(hold=True))
            future = manager.submit(rollouts_of("during", N), run="failover")
            judge.wait_until(lambda log: len(log) == 2 * N, 60)
            servers.fail_over()
            judge.set_plan({})
            judge.release()
            assert future.result(timeout_s=240).statuses == ["scored"] * N
            batch = manager.submit(rollouts_of("after", N)).result(timeout_s=120)
            assert batch.statuses == ["scored"] * N
        engine = open_engine(f"sqlite:///{tmp_path / 'oyer.db'}")
        with reading(engine) as conn:
            rows = conn.execute(text("SELECT batch_id, count(*) FROM judgements GROUP BY 1")).all()
        engine.dispose()
        assert [count for _, count in rows] == [N] * 3
        logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert "sentinel://" in logs
        assert PASSWORD not in logs
        assert quote(PASSWORD, safe="") not in logs
