"""Times every query of the product and of the docs on a record of a million judgements, and its growth.

    python benchmarks/history.py                                     # 10,000 and 100,000, to try it
    python benchmarks/history.py --sizes 100000 1000000              # the tables of the docs
    python benchmarks/history.py --sizes 1000000 10000000 --databases postgresql
    python benchmarks/history.py --url postgresql://postgres@/history --sizes 1000000 --prune
    python benchmarks/history.py --sizes 1000000 --pages             # each page of `oyer view`
    python benchmarks/history.py --sizes 100000 --bytes              # bytes per judgement and table

- `bulk_record.py` makes the rows; `record_reads.py` has the queries: the SQL blocks of
  docs/record.md, what users write by hand, and what workers and the command line run. Writes are
  rolled back.
- A query about a run reads one of 10,000 judgements. What is bounded is a query's time at the largest
  size, and its growth from one size to the next: a query whose time grows with the record is wrong.
- Each query runs `--rounds` times after a first one. Wall is the least of them; CPU, of this process
  and on SQLite the database's too, is what to judge by on a busy machine.
- PostgreSQL runs from the tests' wheel, without fsync.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bulk_record import fill
from common import Figure, print_table, report
from history_pages import time_pages
from record_bytes import print_bytes
from record_reads import ad_hoc, documented, of_the_product, sample_of
from sqlalchemy import Engine

from oyer import migrations
from oyer.models.engine import open_engine
from oyer.models.pruning.prune import Selection, prune

BOUND_MS = 50.0
"""Longest time of any query at a million judgements."""

SHOWN = 90
"""Characters of a query that the table shows."""


@dataclass(frozen=True)
class Timing:
    """Least times of one query."""

    wall_ms: float
    cpu_ms: float


def timings(engine: Engine, rounds: int) -> dict[str, Timing]:
    """Time each query; the figures are by its name or text."""
    with engine.connect().execution_options(sqlite_begin="BEGIN") as conn:
        sample = sample_of(conn)
    works = {**of_the_product(sample), **ad_hoc(sample), **documented(sample)}
    found = {}
    for name, work in works.items():
        best = Timing(float("inf"), float("inf"))
        for number in range(rounds + 1):
            with engine.connect() as conn, conn.begin() as transaction:
                wall, cpu = time.perf_counter(), time.process_time()
                work(conn)
                wall_ms = (time.perf_counter() - wall) * 1000
                cpu_ms = (time.process_time() - cpu) * 1000
                transaction.rollback()
            if number:
                best = Timing(min(best.wall_ms, wall_ms), min(best.cpu_ms, cpu_ms))
        found[name] = best
    return found


@contextmanager
def databases(names: list[str]) -> Iterator[dict[str, str]]:
    """Make empty databases; yields their URLs by name."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="oyer-history-"))
        urls = {"sqlite": f"sqlite:///{folder}/history.db"}
        if "postgresql" in names:
            from tests.support.services import postgres_server

            urls["postgresql"] = stack.enter_context(postgres_server())
        yield {name: urls[name] for name in names}


def measure(database: str, engine: Engine, sizes: list[int], rounds: int) -> None:
    """Fill to each size, time all queries, and print the table."""
    by_size = []
    for size in sorted(sizes):
        fill(engine, size)
        by_size.append(timings(engine, rounds))
    before, last = by_size[0], by_size[-1]
    rows, figures = [], []
    for name in last:
        growth = last[name].wall_ms / before[name].wall_ms
        rows.append(
            (
                name[:SHOWN],
                *(f"{one[name].wall_ms:.1f}" for one in by_size),
                f"{growth:.2f}",
                f"{last[name].cpu_ms:.1f}",
                "yes" if last[name].wall_ms <= BOUND_MS else "NO",
            )
        )
        figures.append(
            Figure(f"{database}: {name[:SHOWN]}", last[name].wall_ms, "ms", bound=BOUND_MS)
        )
    headings = ("query", *(f"{size:,} ms" for size in sorted(sizes)), "growth", "CPU ms", "≤ 50 ms")
    print_table(f"{database}, least of {rounds} runs", headings, rows)
    report(figures)


def time_prune(engine: Engine) -> None:
    """Prune every other of the first runs, and print how long that and its longest transaction took."""
    selection = Selection(runs=[f"exp-{run:02}" for run in range(0, 10, 2)])
    rollouts, longest_s = 0, 0.0
    began = last = time.perf_counter()
    for done in prune(engine, selection, texts_only=False):
        now = time.perf_counter()
        rollouts, longest_s, last = rollouts + done.rollouts, max(longest_s, now - last), now
    wall_s = time.perf_counter() - began
    print(
        f"{rollouts} rollouts pruned in {wall_s:.1f} s, {rollouts / wall_s:.0f} a second;"
        f" longest transaction {longest_s:.2f} s"
    )


def main() -> None:
    """Fill each database, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument(
        "--url", help="a record of your own; it is filled up to the sizes, and stays"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--prune", action="store_true", help="time pruning instead, at the last size"
    )
    parser.add_argument(
        "--pages", action="store_true", help="time the pages of `oyer view` instead"
    )
    parser.add_argument(
        "--bytes", action="store_true", help="print the bytes of each table instead"
    )
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.url:
            urls = {options.url.partition(":")[0]: options.url}
        else:
            urls = stack.enter_context(databases(options.databases))
        for database, url in urls.items():
            migrations.upgrade(url)
            engine = open_engine(url)
            if options.prune:
                fill(engine, max(options.sizes))
                time_prune(engine)
            elif options.pages:
                fill(engine, max(options.sizes))
                time_pages(engine)
            elif options.bytes:
                fill(engine, max(options.sizes))
                print_bytes(database, engine)
            else:
                measure(database, engine, options.sizes, options.rounds)
            engine.dispose()


if __name__ == "__main__":
    main()
