"""Writes the comments of tables, views and columns into PostgreSQL; SQLite has no comments.

It runs after every upgrade and changes only what differs. So a changed comment needs no migration, and
an up-to-date record needs no owner privileges.
"""

from sqlalchemy import Connection, inspect, text

from oyer.models.comments import COLUMNS, TABLES, VIEWS, view_comments


def describe(conn: Connection) -> None:
    """Update the comments of all tables and views and their columns."""
    if conn.dialect.name != "postgresql":
        return
    inspector = inspect(conn)
    for table in inspector.get_table_names():
        if table in TABLES:
            _comment(conn, "TABLE", table, TABLES[table], COLUMNS[table])
    for view in inspector.get_view_names():
        if view in VIEWS:
            columns = [column["name"] for column in inspector.get_columns(view)]
            _comment(conn, "VIEW", view, VIEWS[view], view_comments(view, columns))


def _comment(conn: Connection, kind: str, name: str, about: str, columns: dict[str, str]) -> None:
    """Set the comments of a table or view and of its existing columns."""
    found = conn.execute(
        text(
            "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
            " WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 AND NOT attisdropped"
        ),
        {"name": name},
    )
    now = {str(column): comment for column, comment in found}
    if (
        conn.scalar(text("SELECT obj_description(CAST(:name AS regclass))"), {"name": name})
        != about
    ):
        _set(conn, f"{kind} {name}", about)
    for column, comment in columns.items():
        if column in now and now[column] != comment:
            _set(conn, f'COLUMN {name}."{column}"', comment)


def _set(conn: Connection, what: str, comment: str) -> None:
    # COMMENT accepts no parameters; the texts come from this package.
    quoted = comment.replace("'", "''")
    conn.exec_driver_sql(f"COMMENT ON {what} IS '{quoted}'")
