"""Tickets of rows that a `rollout_func` submitted early."""

from collections.abc import Sequence

from oyer.manager.future import RewardFuture
from oyer.manager.score import Score, scores_of
from oyer.manager.trl.columns import TICKETS
from oyer.protocol.errors import InvalidInput
from oyer.protocol.status import Status

NOT_SUBMITTED = "-"
"""Replaces the row number in the ticket of a row that was not submitted."""

UNREADABLE = Score(status=Status.REJECTED, error="the row cannot be scored; see the log")


def in_row_order(scores: Sequence[Score], rows: Sequence[int], size: int) -> list[Score]:
    """Return one score per row; rows not listed get `UNREADABLE`."""
    placed = [UNREADABLE] * size
    for row, score in zip(rows, scores, strict=True):
        placed[row] = score
    return placed


def tickets_of(future: RewardFuture, rows: Sequence[int], size: int) -> list[str]:
    """Return one ticket per row; `rows` are those that were submitted."""
    places = {row: place for place, row in enumerate(rows)}
    return [f"{future.ticket}#{places.get(i, NOT_SUBMITTED)}" for i in range(size)]


async def collect_tickets(tickets: Sequence[str]) -> list[Score]:
    """Wait for rows that were submitted early, by their tickets."""
    places = [ticket.rpartition("#") for ticket in tickets]
    if not all(ticket and (row == NOT_SUBMITTED or row.isdecimal()) for ticket, _, row in places):
        raise InvalidInput(f"{TICKETS}: is not a ticket from `submit`; pass tickets on unchanged")
    batches = {
        ticket: scores_of(await RewardFuture.from_ticket(ticket))
        for ticket in dict.fromkeys(ticket for ticket, _, _ in places)
    }
    return [
        UNREADABLE if row == NOT_SUBMITTED else batches[ticket][int(row)]
        for ticket, _, row in places
    ]
