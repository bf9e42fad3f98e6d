"""The sample rollouts that ship with Oyer: grade-school-math answers of four policies."""

import json
from importlib import resources
from typing import Any


def sample_rollouts() -> list[dict[str, Any]]:
    """512 rollouts, 128 groups of 4, in the format that `oyer score` reads.

    `NOTICE` beside the data names their source and licence, and what was changed.
    """
    with resources.files("oyer.demo").joinpath("rollouts.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
