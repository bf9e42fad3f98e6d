"""What `combine` returns for a batch, as it crosses the result backend.

Arrays travel as base64 of little-endian float32: exact, compact, and NaN survives JSON.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oyer.tasks.errors import MessageRefused
from oyer.tasks.payloads import WIRE_VERSION

Float32s = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A batch's rewards, `[N]` each, in the order submitted."""

    batch_id: str
    rewards: Float32s
    unshaped_rewards: Float32s
    judge_scores: Float32s
    mask: NDArray[np.bool_]
    statuses: list[str]
    terms: dict[str, Float32s]
    usage: dict[str, float]
    """calls, prompt_tokens, completion_tokens, cost_usd."""
    first_errors: dict[str, str]
    """For each failed status, the first error seen."""

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "v": WIRE_VERSION,
            "batch_id": self.batch_id,
            "rewards": _packed(self.rewards),
            "unshaped_rewards": _packed(self.unshaped_rewards),
            "judge_scores": _packed(self.judge_scores),
            "mask": _packed(self.mask.astype(np.float32)),
            "statuses": self.statuses,
            "terms": {name: _packed(term) for name, term in self.terms.items()},
            "usage": self.usage,
            "first_errors": self.first_errors,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Outcome":
        """Read what `to_wire` gave.

        Raises:
            MessageRefused: it was written by another version.
        """
        if wire.get("v") != WIRE_VERSION:
            raise MessageRefused(
                f"result of version {wire.get('v')}; this trainer reads version {WIRE_VERSION}:"
                " run the same release of Oyer on the trainer and the workers"
            )
        return cls(
            batch_id=wire["batch_id"],
            rewards=_unpacked(wire["rewards"]),
            unshaped_rewards=_unpacked(wire["unshaped_rewards"]),
            judge_scores=_unpacked(wire["judge_scores"]),
            mask=_unpacked(wire["mask"]) > 0,
            statuses=list(wire["statuses"]),
            terms={name: _unpacked(term) for name, term in wire["terms"].items()},
            usage=dict(wire["usage"]),
            first_errors=dict(wire["first_errors"]),
        )


def _packed(values: NDArray[Any] | Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def _unpacked(text: str) -> Float32s:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


def packed64(values: NDArray[np.float64]) -> str:
    """Write float64 values as base64 of their little-endian bytes."""
    return base64.b64encode(values.astype("<f8").tobytes()).decode()


def unpacked64(text: str) -> NDArray[np.float64]:
    """Read what `packed64` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
