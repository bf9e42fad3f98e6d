"""How a database means to answer a read."""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, event


def plan_of(engine: Engine, read: Callable[[Connection], object], explain: str) -> str:
    """Run a read, and return the database's plan for its first SELECT, a step per line."""
    asked = []
    event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2:4]))
    with engine.begin() as conn:
        if engine.dialect.name == "postgresql":  # it would scan tables this small, rightly
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        read(conn)
        statement, values = next(query for query in asked if query[0].startswith("SELECT"))
        return "\n".join(row[-1] for row in conn.exec_driver_sql(f"{explain} {statement}", values))
