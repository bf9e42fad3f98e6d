"""Where Oyer's workers run, what is on their record, and how the scripted judge scores."""

import importlib.util
import json
import os
import re
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.demo.rule_judge import fenced_blocks

ROOT = Path(__file__).parents[2]
WORKERS_PYTHON = os.environ.get("OYER_WORKERS_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
"""The interpreter of the environment that has Oyer whole: a trainer's has its light side only."""


@dataclass
class Backend:
    """A running `oyer up`."""

    folder: Path
    config: dict[str, Any]
    judge: JudgeServer

    def file(self, name: str = "oyer.yaml", **changes: Any) -> Path:
        """Write a configuration for a trainer of this backend."""
        path = self.folder / name
        path.write_text(json.dumps({**self.config, **changes}))
        return path

    def changes(self, failure: str) -> dict[str, Any]:
        """Give the changes to the configuration that bring a failure about: `dead`, or none."""
        dead = {"name": "q", "endpoint": "dead", "model": "m"}
        return {"judges": [dead]} if failure == "dead" else {}

    def recorded(self, run: str) -> dict[str, float | None]:
        """Read the rewards on record, by response."""
        query = "SELECT response, reward FROM judge_history WHERE run = ?"
        with sqlite3.connect(self.folder / "record.db") as connection:
            return dict(connection.execute(query, (run,)).fetchall())

    def components(self, run: str) -> dict[str, dict[str, float]]:
        """Read each judge's score and the value of each criterion on record, by response."""
        scores = (
            "SELECT response, judge, score FROM judge_history WHERE run = ? AND score IS NOT NULL"
        )
        values = (
            "SELECT h.response, c.judge || '/' || c.name, c.value FROM criterion_history c"
            " JOIN judge_history h ON h.batch_id = c.batch_id AND h.rollout_index = c.rollout_index"
            " AND h.judge = c.judge AND h.sample = c.sample WHERE c.run = ?"
        )
        found: dict[str, dict[str, float]] = {}
        with sqlite3.connect(self.folder / "record.db") as connection:
            for query in (scores, values):
                for response, name, value in connection.execute(query, (run,)):
                    found.setdefault(response, {})[name] = value
        return found

    def shaped_rewards(self, run: str) -> dict[str, list[float | None]]:
        """Read the rewards with a length term, by response: a group's first judgements have none."""
        query = (
            "SELECT response, reward FROM judge_history"
            " WHERE run = ? AND json_extract(terms, '$.length_penalty') IS NOT NULL"
        )
        found: dict[str, list[float | None]] = {}
        with sqlite3.connect(self.folder / "record.db") as connection:
            for response, reward in connection.execute(query, (run,)):
                found.setdefault(response, []).append(reward)
        return found


def load_example(name: str) -> ModuleType:
    """Run an example's module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its classes pickle by the module's name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def judged(arrival: Any) -> str:
    """The response in the judge's prompt."""
    text = "\n".join(content for _, content in arrival.messages())
    _, _, rest = text.partition("## Response to judge\n")
    fence, _, rest = rest.partition("\n")
    return rest.partition(f"\n{fence}")[0]


def score_of(response: str) -> int:
    """A score from 1 to 10 that the response alone decides."""
    return sum(response.encode()) % 10 + 1


JUDGES_OF_KINDS: list[dict[str, Any]] = [
    {
        "name": "rubric",
        "endpoint": "fake",
        "model": "m",
        "criteria": [
            {"name": "correct", "text": "Is it right?", "weight": 3},
            {"name": "steps", "text": "Are there steps?", "choices": ["none", "some", "all"]},
            {"name": "filler", "text": "Has filler.", "points": -2},
        ],
    },
    {"name": "ranking", "kind": "group", "endpoint": "fake", "model": "m"},
]
"""A judge of criteria and a group judge, which `answer_by_kind` answers."""

COMPONENTS = ["rubric", "rubric/correct", "rubric/steps", "rubric/filler", "ranking"]
"""Names of their components."""


def components_of(response: str) -> dict[str, float]:
    """The components that `answer_by_kind` gives a response."""
    score = score_of(response)
    correct, steps, filler = float(score > 5), score % 3 / 2, float(score % 2)
    return {
        "rubric": (3 * correct + steps + 2 * (1 - filler)) / 6,
        "rubric/correct": correct,
        "rubric/steps": steps,
        "rubric/filler": filler,
        "ranking": float(score),
    }


def answer_by_kind(arrival: Any) -> Action:
    """Give verdicts, or the scores of a list, that each response alone decides."""
    text = dict(arrival.messages())["user"]
    listed = re.findall(r"(?m)^## Response \d+$", text)
    if listed:
        responses = fenced_blocks(text)[-len(listed) :]
        scores = [
            {"id": i, "explanation": "by its letters", "score": score_of(one)}
            for i, one in enumerate(responses, start=1)
        ]
        return Action(text=json.dumps({"scores": scores}))
    score = score_of(judged(arrival))
    verdicts = {
        "correct": score > 5,
        "steps": ["none", "some", "all"][score % 3],
        "filler": bool(score % 2),
    }
    listed_verdicts = [
        {"name": name, "reason": "by its letters", "verdict": verdict}
        for name, verdict in verdicts.items()
    ]
    return Action(text=json.dumps({"verdicts": listed_verdicts}))


def random_llama(tokenizer: Any) -> Any:
    """Make a model of some thousand weights for a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)
