"""Query plans of reads."""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, event


def plan_of(engine: Engine, read: Callable[[Connection], object], explain: str) -> str:
    """Run a read, and return the database's plan for its first SELECT, a step per line."""
    executed = []
    event.listen(engine, "before_cursor_execute", lambda *args: executed.append(args[2:4]))
    with engine.begin() as conn:
        if engine.dialect.name == "postgresql":  # it would scan tables this small, rightly
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        read(conn)
        statement, values = next(query for query in executed if query[0].startswith("SELECT"))
        return "\n".join(row[-1] for row in conn.exec_driver_sql(f"{explain} {statement}", values))


LARGE = ("judgements", "criteria", "rollouts", "rewards", "attempts", "texts")
"""Tables that grow with the rollouts."""


def selects_of(engine: Engine, read: Callable[[Connection], object]) -> list[tuple[str, Any]]:
    """Run a read in a transaction, and return its SELECTs with their values."""
    executed: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        executed.append(args[2:4])

    event.listen(engine, "before_cursor_execute", note)
    try:
        with engine.connect() as conn:
            read(conn)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return [one for one in executed if one[0].startswith("SELECT")]


def table_scans(conn: Connection, query: str, values: Any = None) -> list[str]:
    """Return the steps of a query's plan that read a large table, or an index of it, as a whole."""
    if conn.dialect.name == "sqlite":
        steps = [row[-1] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)]
        aliases = {"j", "c", *LARGE}
        return [step for step in steps if step.startswith("SCAN") and step.split()[1] in aliases]
    explain = f"EXPLAIN (FORMAT JSON, COSTS OFF) {query}"
    plan = conn.exec_driver_sql(explain, values).scalar_one()
    return [str(node) for node in _nodes(plan[0]["Plan"]) if _reads_all(node)]


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def _reads_all(node: dict[str, Any]) -> bool:
    if node["Node Type"] == "Seq Scan":
        return node["Relation Name"] in LARGE
    if not node.get("Index Name", "").startswith("pk_"):
        return False
    # Such an index begins with the time of submission; a condition on the batch alone reads all of it.
    return (
        node["Index Name"] != "pk_texts"
        and node["Index Name"][3:] in LARGE
        and ("submitted_at" not in node.get("Index Cond", ""))
    )
