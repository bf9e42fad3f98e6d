"""Measures how long TRL's trainer waits for rewards: the documented line against `OverlappedRewards`.

    .venv-trainers/bin/python benchmarks/overlap_in_trainers.py
    .venv-trainers/bin/python benchmarks/overlap_in_trainers.py --steps 1 --generation-s 0.5 --json out.json

TRL's own GRPOTrainer trains a random model of some thousand weights on the CPU. Generation and the
reference log-probs keep a GPU busy in a real training; here they are lengthened by sleeps. A scripted
judge on this machine answers every call after `--latency-s`. Waiting is the time that the trainer
spends in its reward step, after the log-probs.

The bound is what no submission at that moment can go below: the calls' waves of `--in-flight`, less
what the trainer does between generation and rewards if they were submitted before it. Ways
alternate; the table has medians.

Oyer's workers run with the interpreter that `OYER_WORKERS_PYTHON` names, by default `.venv/bin/python`.
`overlap_in_verl.py` measures verl.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager.trl import OverlappedRewards, reward_function

ROOT = Path(__file__).parents[1]
WORKERS_PYTHON = os.environ.get("OYER_WORKERS_PYTHON", str(ROOT / ".venv" / "bin" / "python"))

DOCUMENTED, MIXIN = "reward_funcs=reward_function(…)", "the same with OverlappedRewards"


class Timed(GRPOTrainer):
    """Lengthens generation and reference log-probs, and times the reward step."""

    generation_s = 0.0
    log_probs_s = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.waited_s: list[float] = []
        self.step_s: list[float] = []
        self.hidden_s: list[float] = []
        super().__init__(*args, **kwargs)

    def _generate(self, prompts: Any) -> Any:
        generated = super()._generate(prompts)
        self._generated = time.monotonic()
        return generated

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        generated = super()._generate_single_turn(*args, **kwargs)
        time.sleep(self.generation_s)
        return generated

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if not torch.is_grad_enabled():
            time.sleep(self.log_probs_s)
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = time.monotonic()
        scored = super()._generate_and_score_completions(inputs)
        self.step_s.append(time.monotonic() - began)
        return scored

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        self.hidden_s.append(began - self._generated)
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.waited_s.append(time.monotonic() - began)
        if rewards.isnan().any():
            raise SystemExit("not every rollout was judged; run `oyer check`")
        return rewards


class TimedMixin(OverlappedRewards, Timed):
    """The same, with judging that overlaps."""


@contextmanager
def backend(options: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """Run a judge and `oyer up`; yields the trainer's configuration."""
    action = Action(text="Right.\n\nFinal score: 8", latency_s=options.latency_s)
    with JudgeServer(action, body_limit_bytes=0) as judge:
        endpoint = {"base_url": judge.base_url, "max_in_flight": options.in_flight}
        config: dict[str, Any] = {
            "endpoints": {"bench": endpoint},
            "judges": [{"name": "q", "endpoint": "bench", "model": "bench"}],
            "length": {"method": "median_band"},
            "store": {"url": f"sqlite:///{folder / 'bench.db'}"},
        }
        file = folder / "oyer.yaml"
        file.write_text(json.dumps(config))
        command = [WORKERS_PYTHON, "-m", "oyer.cli", "up", "--json", "--config", str(file)]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                events = map(json.loads, process.stdout)
                ready = next(event for event in events if event["event"] == "ready")
                state = json.loads(Path(ready["state_file"]).read_text())
                file.write_text(json.dumps({**config, "broker": {"url": state["broker_url"]}}))
                yield file
            finally:
                process.send_signal(signal.SIGTERM)


def tiny_model(folder: Path) -> PreTrainedTokenizerFast:
    """Save a random model, from which TRL loads policy and reference; returns its tokenizer."""
    alphabet = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(way: str, seed: int, config: Path, folder: Path, options: argparse.Namespace) -> Timed:
    """Train some steps in one way."""
    tokenizer = tiny_model(folder / "model")
    kind = TimedMixin if way == MIXIN else Timed
    trainer = kind(
        str(folder / "model"),
        reward_funcs=reward_function(config, num_generations=8, run="bench"),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [f"{way} {seed} {i}" for i in range(64)]}),
        args=GRPOConfig(
            output_dir=str(folder / "out"),
            num_generations=8,
            per_device_train_batch_size=options.rollouts,
            max_completion_length=16,
            # With a reference model, TRL computes its log-probs before it asks for rewards.
            beta=0.04,
            max_steps=options.steps + 1,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        ),
    )
    trainer.generation_s, trainer.log_probs_s = options.generation_s, options.log_probs_s
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Alternate the ways; returns a row per way."""
    waves_s = math.ceil(options.rollouts / options.in_flight) * options.latency_s
    found: dict[str, list[Timed]] = {DOCUMENTED: [], MIXIN: []}
    with tempfile.TemporaryDirectory() as name, backend(options, Path(name)) as config:
        for number in range(options.rounds):
            for way, trainers in found.items():
                seed = 2 * number + (way == MIXIN)
                trainers.append(train(way, seed, config, Path(name), options))
    rows = [row_of(way, trainers, waves_s) for way, trainers in found.items()]
    for row in rows:
        row["ratio"] = row["waited_s"] / rows[0]["waited_s"]
    return rows


def row_of(way: str, trainers: list[Timed], waves_s: float) -> dict[str, Any]:
    """Return the figures of one way. The first step of each training connects and warms up."""
    waited = [s for one in trainers for s in one.waited_s[1:]]
    hidden_s = statistics.median(s for one in trainers for s in one.hidden_s[1:])
    return {
        "trainer": "TRL GRPOTrainer",
        "way": way,
        "waited_s": statistics.median(waited),
        "waited_min_s": min(waited),
        "waited_max_s": max(waited),
        "bound_s": max(0.0, waves_s - hidden_s) if way == MIXIN else waves_s,
        "step_s": statistics.median(s for one in trainers for s in one.step_s[1:]),
        "steps": len(waited),
    }


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return the table."""
    title = (
        f"{options.rollouts} rollouts, {options.in_flight} in flight, generation"
        f" {options.generation_s:g} s, log-probs {options.log_probs_s:g} s, judge"
        f" {options.latency_s:g} s; medians of {rows[0]['steps']} steps"
    )
    lines = [
        title,
        "",
        "| trainer | rewards by | waited s | least … most s | bound s | step s | ratio |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['trainer']} | {row['way']} | {row['waited_s']:.2f} |"
            f" {row['waited_min_s']:.2f} … {row['waited_max_s']:.2f} | {row['bound_s']:.2f} |"
            f" {row['step_s']:.2f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--generation-s", type=float, default=1.0)
    parser.add_argument("--log-probs-s", type=float, default=1.5)
    parser.add_argument("--latency-s", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=3, help="per round, after one that warms up")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows and settings to this file")
    options = parser.parse_args()
    # The model is tiny: more threads only compete with the workers.
    torch.set_num_threads(1)
    rows = measure(options)
    print(markdown(rows, options))
    if options.json is not None:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
