"""The benchmarks' own arithmetic, and the filling of a record."""

import json
import sys

import pytest
from sqlalchemy import Connection, text

from oyer.models.engine import open_engine, reading
from oyer.models.queries import list_batches, scored_by_request
from tests.support.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_all
import bulk_record
from compare import interval, verdict
from record_reads import ad_hoc, documented, of_the_product, sample_of
from shared_limit import permits_used


@pytest.mark.parametrize(
    ("count", "dropped"),
    # Conover, table A3: the sign test's critical values at 5 %, two-sided.
    [(6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (20, 5)],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(count: int, dropped: int) -> None:
    ratios = [float(i) for i in range(count)]
    assert interval(ratios[::-1]) == (ratios[dropped], ratios[-1 - dropped])


def test_five_rounds_give_no_verdict() -> None:
    assert interval([1.5] * 5) is None
    assert verdict([1.5] * 5, "lower", 0.02) == "too few rounds"


def test_a_figure_is_worse_only_beyond_noise_and_the_least_difference() -> None:
    slower = [1.08, 1.1, 1.12, 1.09, 1.11, 1.1, 1.07]
    assert verdict(slower, "lower", 0.02) == "worse"
    assert verdict(slower, "higher", 0.02) == "better"
    assert verdict([1 / ratio for ratio in slower], "lower", 0.02) == "better"
    assert verdict([*slower[:-1], 0.9], "lower", 0.02) == "same"
    assert verdict([1.01] * 7, "lower", 0.02) == "same"


def test_permits_used_are_the_calls_under_way_a_permit() -> None:
    full = [(float(i // 2), i // 2 + 1.0) for i in range(8)]
    assert permits_used(full, 2) == (1.0, 2)
    assert permits_used(full, 4) == (0.5, 2)
    half = [(begin * 2, begin * 2 + 1) for begin, _ in full]
    assert permits_used(half, 2) == (0.5, 2)


def test_the_page_has_each_figure_with_its_ratios_machine_and_date() -> None:
    figure = {
        "name": "a|b", "value": 3.0, "unit": "s", "bound": 2.0, "peer": "gather",
        "peer_value": 6.0, "better": "lower", "machine": "CPU, 2 cores", "date": "2026-01-02",
        "options": "--rounds 1",
    }  # fmt: skip
    page = bench_all.page_of({"throughput": [figure]})
    assert (
        "| a\\|b | 3 s | 2 | 1.50 | gather: 6 s | 0.50 | `--rounds 1` | CPU, 2 cores | 2026-01-02 |"
        in page
    )


def test_the_page_of_the_docs_is_that_of_its_figures() -> None:
    figures = json.loads((ROOT / "docs/benchmarks.json").read_text())
    assert all(figures.values())
    assert (ROOT / "docs/benchmarks.md").read_text() == bench_all.page_of(figures)


def test_the_benchmarks_of_the_page_exist() -> None:
    assert {
        name for name in bench_all.SUITES if not (bench_all.FOLDER / f"{name}.py").exists()
    } == set()


def test_copies_of_batches_are_whole_and_differ(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twenty batches of two rollouts, and five copies of them.
    monkeypatch.setattr(bulk_record, "BATCH_SIZE", 2)
    monkeypatch.setattr(bulk_record, "FIRST", 40)
    engine = open_engine(store_url)
    bulk_record.fill(engine, 240)
    with reading(engine) as conn:
        for table in ("rollouts", "judgements", "attempts", "rewards"):
            assert count(conn, f"SELECT count(*) FROM {table}") == 240, table
        for column in ("id", "submitted_at"):
            assert count(conn, f"SELECT count(DISTINCT {column}) FROM batches") == 120, column
        assert count(conn, "SELECT count(DISTINCT request_hash) FROM judgements") == 240
        assert count(conn, "SELECT count(DISTINCT response) FROM judge_history") == 240
        assert count(conn, "SELECT count(*) FROM judge_history WHERE reward IS NOT NULL") == 240
        assert count(conn, "SELECT count(*) FROM runs") == 20
        assert count(conn, "SELECT max(step) FROM batches") == 9
        sample = sample_of(conn)
        assert list_batches(conn, run=sample.run)
        assert len(scored_by_request(conn, sample.request_hashes)) == 2
    works = {**of_the_product(sample), **ad_hoc(sample), **documented(sample)}
    with engine.connect() as conn, conn.begin() as transaction:
        for work in works.values():
            work(conn)
        transaction.rollback()
    engine.dispose()


def count(conn: Connection, query: str) -> int:
    return int(conn.execute(text(query)).scalar_one())
