"""Files that the page offers."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from oyer.history.files.writers import parquet_bytes
from oyer.models.base import dump_json
from oyer.models.step_total import NO_STEP


def rows_of_step(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rollouts of a step's page as rows, with a column per component.

    The column of a component that is named like another column, e.g. of a judge `status`, is
    `component/NAME`.
    """
    rows = []
    for cell in (cell for group in page["groups"] for cell in group.cells):
        row = {
            "run": page["run"]["name"],
            "step": None if page["step"] == NO_STEP else page["step"],
            "group_id": cell.group_id,
            "batch_id": cell.batch_id,
            "rollout_index": cell.index,
            "status": cell.status,
            "reward": cell.reward,
            "response_tokens": cell.tokens,
            "cost_usd": cell.cost_usd,
            "latency_ms": cell.latency_ms,
        }
        named = {
            f"component/{name}" if name in row else name: value
            for name, value in cell.components.items()
        }
        rows.append({**row, **named})
    return rows


def file_of(rows: list[dict[str, Any]], kind: str) -> Response:
    """Return rows as JSONL, CSV or Parquet."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "jsonl":
        return attached("".join(f"{dump_json(row)}\n" for row in rows), "rollouts.jsonl")
    if kind == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, names)
        writer.writerow({name: _cell(name) for name in names})
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        return attached(out.getvalue(), "rollouts.csv")
    if kind != "parquet":
        raise HTTPException(404, "The formats are jsonl, csv and parquet.")
    return attached(parquet_bytes(rows), "rollouts.parquet")


def _cell(value: Any) -> Any:
    """Keep a spreadsheet from running a text as a formula (OWASP, CSV Injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def attached(content: str | bytes, name: str) -> Response:
    """Return a file that browsers save."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    body = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    return StreamingResponse(iter([body]), headers=headers, media_type="application/octet-stream")
