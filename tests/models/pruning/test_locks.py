"""Workers and a prune of the same batch wait for each other in one order."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from oyer.models.pruning.prune import Selection, prune
from oyer.models.writes import ensure_run_and_batch, finish_batch, record_chunk
from tests.support.record_counts import rows
from tests.support.record_rows import START, make_batch, make_rollout
from tests.support.waiting import wait_until


def test_a_chunk_of_an_ended_batch_that_is_written_during_its_prune_is_no_deadlock(
    postgres_engine: Engine,
) -> None:
    """E.g. a chunk of a cancelled batch, which a worker was still judging."""
    engine = postgres_engine
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(id="a", run="gone", size=2))
        finish_batch(conn, "a", status="cancelled", finished_at=START)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'texts'::regclass"
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as conn, engine.connect() as watching:
            conn.exec_driver_sql("INSERT INTO texts (hash, body) VALUES ('h', 'early')")
            pruned = pool.submit(
                lambda: list(prune(engine, Selection(runs=["gone"]), texts_only=False))
            )
            wait_until(lambda: watching.exec_driver_sql(waiting).scalar_one() == 1, "waiting")
            record_chunk(conn, key, rollouts=[make_rollout(0), make_rollout(1)])
        assert sum(one.batches for one in pruned.result(60)) == 1
    left = {name: count for name, count in rows(engine).items() if count}
    assert left == {"runs": 1, "texts": 1}
