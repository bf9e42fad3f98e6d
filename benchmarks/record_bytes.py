"""Measures the bytes of each table of the record, with its indexes, per judgement."""

from bulk_record import REPLY_CHARACTERS, RESPONSE_CHARACTERS
from common import print_table
from sqlalchemy import Engine

from oyer.models.base import Base

CRITERIA = 5
"""Criteria that are added to each judgement, to measure the size of one."""

_ADD_CRITERIA = f"""
INSERT INTO criteria (submitted_at, batch_id, rollout_index, judge, sample, position, name, verdict,
    value, reason, weight, required, span)
SELECT submitted_at, batch_id, rollout_index, judge, sample, number, 'criterion ' || number, 'true',
    1.0, 'The response states the result and checks it against the units.', 1.0, false, '"met": true'
FROM judgements CROSS JOIN (
    {" UNION ALL ".join(f"SELECT {number} AS number" for number in range(CRITERIA))}
) AS numbers
WHERE NOT EXISTS (SELECT 1 FROM criteria)
"""

_SQLITE = """
SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY tbl_name
"""

_POSTGRESQL = """
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
"""


def table_bytes(engine: Engine) -> dict[str, int]:
    """Return the bytes of each table with its indexes, and on PostgreSQL its TOAST table."""
    query = _SQLITE if engine.dialect.name == "sqlite" else _POSTGRESQL
    with engine.connect() as conn:
        found = {str(name): int(size) for name, size in conn.exec_driver_sql(query)}
    return {name: size for name, size in found.items() if name in Base.metadata.tables}


def print_bytes(database: str, engine: Engine) -> None:
    """Add criteria to a filled record, and print the bytes per judgement of each table."""
    with engine.begin() as conn:
        conn.exec_driver_sql(_ADD_CRITERIA)
        judgements = int(conn.exec_driver_sql("SELECT count(*) FROM judgements").scalar_one())
    sizes = table_bytes(engine)
    one_criterion = sizes.pop("criteria") / judgements / CRITERIA
    rows = [
        (name, f"{size / judgements:,.0f}", f"{100 * size / sum(sizes.values()):.0f} %")
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
        if size >= 10 * judgements
    ]
    rows.append(("all, without criteria", f"{sum(sizes.values()) / judgements:,.0f}", "100 %"))
    rows.append(("criteria, per criterion", f"{one_criterion:,.0f}", ""))
    texts = f"responses of {RESPONSE_CHARACTERS} and replies of {REPLY_CHARACTERS} characters"
    title = f"{database}: {judgements:,} judgements, {texts}"
    print_table(title, ("table", "bytes per judgement", "share"), rows)
