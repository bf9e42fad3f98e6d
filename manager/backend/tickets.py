"""Tickets: texts that reopen a batch's future in another process."""

import base64
import json
from typing import NamedTuple

from oyer.config.reward import RewardRules, SigningConfig
from oyer.manager.backend.connection import Broker
from oyer.protocol.errors import InvalidInput

_PREFIX = "oyer1."


class TicketState(NamedTuple):
    """What a ticket holds; its fields are arguments of `RewardFuture`."""

    batch_id: str
    verdicts: int
    rules: RewardRules
    broker: Broker
    stall_timeout_s: float


def write_ticket(state: TicketState) -> str:
    """Return the ticket; as secret as the broker's URL."""
    signing = state.broker.signing
    values = [
        state.batch_id,
        state.verdicts,
        state.rules.model_dump(),
        [*state.broker[:2], signing and signing.model_dump()],
        state.stall_timeout_s,
    ]
    return _PREFIX + base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def read_ticket(ticket: str) -> TicketState:
    """Read a ticket.

    Raises:
        InvalidInput: the text is not a ticket of this version.
    """
    if not isinstance(ticket, str) or not ticket.startswith(_PREFIX):
        raise InvalidInput(
            "ticket: is not one that `RewardFuture.ticket` of this version returned; pass it on"
            " unchanged, between processes of one release"
        )
    try:
        values = json.loads(base64.urlsafe_b64decode(ticket.removeprefix(_PREFIX)))
        batch_id, verdicts, rules, (url, expires_s, signing), stall_timeout_s = values
        rules = RewardRules.model_validate(rules)
        signing = None if signing is None else SigningConfig.model_validate(signing)
    except (TypeError, ValueError) as error:
        raise InvalidInput("ticket: is cut or altered; pass it on unchanged") from error
    return TicketState(batch_id, verdicts, rules, Broker(url, expires_s, signing), stall_timeout_s)
