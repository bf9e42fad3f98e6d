"""Sample rollouts: answers of four policies to grade-school math questions."""

import json
from importlib import resources
from typing import Any


def sample_rollouts() -> list[dict[str, Any]]:
    """Return 512 rollouts, 128 groups of 4, in the format that `oyer score` reads.

    `NOTICE` in this folder gives their source, licence and changes.
    """
    with resources.files("oyer.demo").joinpath("rollouts.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
