"""Files of the page are safe to open."""

import asyncio
import csv
import io
from typing import cast

from starlette.responses import StreamingResponse

from oyer.history.downloads import file_of


def test_a_csv_file_holds_no_formula() -> None:
    rows = [{"=name": "=1+1", "reward": -1.5, "group_id": "@group", "status": "a=b"}]
    response = cast(StreamingResponse, file_of(rows, "csv"))

    async def body() -> bytes:
        return b"".join([bytes(cast(bytes, part)) async for part in response.body_iterator])

    (row,) = csv.DictReader(io.StringIO(asyncio.run(body()).decode()))
    assert row == {"'=name": "'=1+1", "reward": "-1.5", "group_id": "'@group", "status": "a=b"}
