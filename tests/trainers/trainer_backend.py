"""Where Oyer's workers run, what is on their record, and how the scripted judge scores."""

import importlib.util
import json
import os
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from oyer.demo.judge_server import JudgeServer

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


def random_llama(tokenizer_folder: Path) -> Any:
    """Make a model of some thousand weights."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
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
