"""The totals that migration 0007 computes from rewards are those that `combine` adds."""

import pytest
from sqlalchemy import inspect, select

from oyer import migrations
from oyer.models.engine import open_engine
from oyer.models.step_total import StepTotal
from tests.support.page_record import fill

TABLE = StepTotal.__table__


def test_totals_of_earlier_batches_equal_what_combine_adds(store_url: str) -> None:
    engine = open_engine(store_url)
    fill(engine)
    query = select(TABLE).order_by(TABLE.c.run_id, TABLE.c.step, TABLE.c.split, TABLE.c.name)
    with engine.connect() as conn:
        added = conn.execute(query).all()
    engine.dispose()
    migrations.downgrade(store_url, "0006")
    engine = open_engine(store_url)
    assert not {"step_totals", "human_verdicts"} & set(inspect(engine).get_table_names())
    engine.dispose()
    migrations.upgrade(store_url)
    engine = open_engine(store_url)
    with engine.connect() as conn:
        computed = conn.execute(query).all()
    engine.dispose()
    assert [row[:4] for row in computed] == [row[:4] for row in added]
    assert len({row.name for row in added}) == 10
    for before, after in zip(added, computed, strict=True):
        assert tuple(after[4:]) == pytest.approx(tuple(before[4:]), rel=1e-5, abs=1e-4)
