"""Times every page of `oyer view` on the record that `history.py` fills."""

import statistics
import time

from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from oyer.history.app import create_app
from oyer.models.batch import Batch, Run
from oyer.models.engine import reading

BOUND_MS = 100.0
"""Longest time of a page: what readers notice as a pause begins there (Nielsen, Usability
Engineering, 1993, section 5.5)."""

ROUNDS = 6
"""The first is not counted."""


def time_pages(engine: Engine) -> None:
    """Print the median time of each page, rendering included, and those above the bound.

    CPU is that of this process, which includes SQLite; on a busy machine, the rest is waiting.
    """
    slow = []
    with TestClient(create_app(engine), base_url="http://localhost") as client:
        for name, address in addresses(engine).items():
            times_ms, cpu_ms = [], []
            for _ in range(ROUNDS):
                began, cpu = time.perf_counter(), time.process_time()
                answer = client.get(address)
                times_ms.append((time.perf_counter() - began) * 1000)
                cpu_ms.append((time.process_time() - cpu) * 1000)
                if answer.status_code != 200:
                    raise SystemExit(f"{name}: {answer.status_code} {answer.text[-600:]}")
            median_ms = statistics.median(times_ms[1:])
            cpu = statistics.median(cpu_ms[1:])
            print(
                f"{median_ms:9.1f} ms {cpu:9.1f} ms CPU  {len(answer.text) / 1000:8.0f} kB  {name}",
                flush=True,
            )
            if median_ms > BOUND_MS:
                slow.append(name)
    print(f"above {BOUND_MS:g} ms: {', '.join(slow) or 'none'}")


def addresses(engine: Engine) -> dict[str, str]:
    """Return one address for each page and each condition of the search."""
    with reading(engine) as conn:
        query = select(Batch.id, Batch.step, Batch.run_id).join_from(Batch, Run)
        row = conn.execute(query.where(Run.name == "exp-04").order_by(Batch.step).limit(1)).one()
    step = f"/runs/{row.run_id}/steps/{row.step}"
    return {
        "runs": "/",
        "run": f"/runs/{row.run_id}",
        "step of 1,000 rollouts": step,
        "step, sorted and filtered": f"{step}?sort=disagreement&status=unparseable",
        "step, by text": f"{step}?text=therefore",
        "group": f"/groups/{row.id}/0",
        "score": f"/scores/{row.id}/0",
        "review, next": f"/review?run={row.run_id}&mode=disagreements&author=a",
        "search, newest": "/search",
        "search, run": "/search?run=exp-04",
        "search, run and step": f"/search?run=exp-04&step={row.step}",
        "search, batch": f"/search?batch={row.id[:8]}",
        "search, group": "/search?group=q3",
        "search, status": "/search?status=unparseable",
        "search, judge": "/search?judge=quality",
        "search, cost": "/search?min_cost_usd=0.0004",
        "search, no such cost": "/search?min_cost_usd=5",
        "search, date": "/search?since=2026-01-02&until=2026-01-03",
        "search, text in a step": f"/search?run=exp-04&step={row.step}&text=therefore",
        "search, text": "/search?text=therefore",
        "search, text that is nowhere": "/search?text=zzz",
        "labels": "/labels.jsonl",
    }
