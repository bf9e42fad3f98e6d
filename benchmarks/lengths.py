"""Measures the length methods: a large batch of each by NumPy and on a GPU, and distinct n-grams.

    python benchmarks/lengths.py                          # 100,000 rows, 20 M tokens
    python benchmarks/lengths.py --rows 1000000 --tokens 4000000

- Every method that a configuration can name, on rows in groups of 8. The bound of a batch of
  100,000 rows is 20 ms.
- N-grams: `repetition` on the token ids of responses of 1,000 tokens, a tenth of which repeat
  themselves. The bound of a core is 20 million tokens a second.
- On a host with a GPU and torch, each is measured there too, with the columns moved to the device and
  the values moved back, as a length worker moves them; NumPy is the peer.
- NumPy runs on one core. Rounds of both alternate; the table gives medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
from common import Figure, print_table, report

from oyer.config.length_methods.catalogue import METHODS
from oyer.tasks.lengths import Inputs, PackedTokens, compute
from oyer.tasks.lengths.arrays import is_torch_array, to_numpy
from oyer.tasks.worker.device import choose_device
from tests.support.length_inputs import BY_ROW, NEEDED

BOUND_MS = 20.0
BOUND_ROWS = 100_000
BOUND_TOKENS_PER_S = 20e6

GROUP_SIZE = 8
RESPONSE_TOKENS = 1000
VOCABULARY = 150_000

REPETITION = "repetition"


def columns_of(rows: int) -> Inputs:
    """Make every column that has one value a row."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 8192, rows)
    return Inputs(
        lengths=lengths,
        group_ids=np.arange(rows) // GROUP_SIZE,
        correct=random.random(rows) < 0.5,
        quality=random.random(rows),
        base_reward=random.random(rows),
        truncated=random.random(rows) < 0.1,
        think_lengths=lengths // 2,
        answer_lengths=lengths - lengths // 2,
        target_lengths=random.integers(1, 8192, rows),
        history_lengths=np.where(random.random(rows) < 0.8, random.random(rows) * 500, np.nan),
        reference_lengths=random.random(rows) * 500,
        reference_accuracy=random.random(rows),
        advantages=random.random(rows) - 0.5,
        total_tokens=lengths + 50,
        turns=random.integers(1, 5, rows),
        no_think=random.random(rows) < 0.5,
        repetitive=random.random(rows) < 0.3,
        components=np.stack([random.random(rows), -random.random(rows)], axis=1),
    )


def tokens_of(count: int) -> PackedTokens:
    """Make the token ids of responses, a tenth of which repeat their first 100 tokens."""
    random = np.random.default_rng(0)
    rows = max(1, count // RESPONSE_TOKENS)
    ids = random.integers(0, VOCABULARY, (rows, RESPONSE_TOKENS), dtype=np.int32)
    ids[::10] = np.tile(ids[::10, :100], RESPONSE_TOKENS // 100)
    return PackedTokens(ids.ravel(), np.arange(rows + 1, dtype=np.int64) * RESPONSE_TOKENS)


def on(inputs: Inputs, gpu: Any) -> Inputs:
    """Move the columns of a batch to a GPU."""
    import torch

    def moved(column: Any) -> Any:
        if isinstance(column, PackedTokens):
            return PackedTokens(moved(column.ids), moved(column.cu_seqlens))
        return torch.from_numpy(column).to(gpu) if isinstance(column, np.ndarray) else column

    return replace(
        inputs, **{field.name: moved(getattr(inputs, field.name)) for field in fields(inputs)}
    )


def needed(name: str, inputs: Inputs) -> Inputs:
    """Only the columns that a method takes, so that no other one is moved."""
    bounded = {need.partition(">=")[0] for need in METHODS[name].needs if ">=" in need}
    taken = METHODS[name].columns | bounded
    return Inputs(**{key: getattr(inputs, key) for key in taken})


def on_cpu(name: str, inputs: Inputs) -> None:
    """Compute a method by NumPy."""
    compute(name, NEEDED.get(name, {}), inputs)


def on_gpu(name: str, inputs: Inputs, gpu: Any) -> None:
    """Compute a method on a GPU, from NumPy columns to NumPy values."""
    term = compute(name, NEEDED.get(name, {}), on(inputs, gpu))
    if not is_torch_array(term.values) or term.values.device.type != gpu.type:
        raise SystemExit(f"{name} was not computed on {gpu}")
    to_numpy(term.values)


def seconds(call: Callable[[], None]) -> float:
    """Time one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(name: str, inputs: Inputs, gpu: Any, rounds: int) -> tuple[float, float | None]:
    """Median seconds by NumPy, and on the GPU if there is one."""
    on_cpu(name, inputs)
    if gpu is None:
        return statistics.median(seconds(lambda: on_cpu(name, inputs)) for _ in range(rounds)), None
    on_gpu(name, inputs, gpu)
    cpu_s, gpu_s = [], []
    for _ in range(rounds):
        cpu_s.append(seconds(lambda: on_cpu(name, inputs)))
        gpu_s.append(seconds(lambda: on_gpu(name, inputs, gpu)))
    return statistics.median(cpu_s), statistics.median(gpu_s)


def gpu_name(gpu: Any) -> str:
    """The card's name."""
    import torch

    return str(torch.cuda.get_device_name(gpu))


def by_columns() -> list[str]:
    """The methods that read no tokens or texts, each under one of its names."""
    names: dict[str, str] = {}
    for name in BY_ROW:
        method = METHODS[name]
        if not method.columns & {"token_ids", "texts"}:
            names.setdefault(f"{method.function} {method.params}", name)
    return sorted(names.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=BOUND_ROWS)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    gpu = choose_device()
    inputs, table, figures = columns_of(options.rows), [], []
    bound_ms = BOUND_MS * options.rows / BOUND_ROWS
    for name in by_columns():
        cpu_s, gpu_s = compare(name, needed(name, inputs), gpu, options.rounds)
        table.append((name, f"{cpu_s * 1e3:.2f}", f"{gpu_s * 1e3:.2f}" if gpu_s else "", ""))
        title = f"{name}: {options.rows:,} rows"
        figures.append(Figure(f"{title}, NumPy", cpu_s * 1e3, "ms", bound_ms))
        if gpu_s:
            title = f"{title}, {gpu_name(gpu)}"
            figures.append(Figure(title, gpu_s * 1e3, "ms", bound_ms, "NumPy", cpu_s * 1e3))

    tokens = tokens_of(options.tokens)
    count = len(tokens.ids)
    rounds = max(3, options.rounds // 3)
    cpu_s, gpu_s = compare(REPETITION, Inputs(token_ids=tokens), gpu, rounds)
    rates = [count / at for at in (cpu_s, gpu_s) if at]
    title = f"{REPETITION}: {count:,} tokens"
    table.append(
        (title, f"{cpu_s * 1e3:.0f}", f"{gpu_s * 1e3:.0f}" if gpu_s else "",
         " / ".join(f"{rate / 1e6:.0f}" for rate in rates))
    )  # fmt: skip
    bound = BOUND_TOKENS_PER_S
    figures.append(Figure(f"{title}, NumPy", rates[0], "tokens/s", bound, better="higher"))
    if gpu_s:
        title = f"{title}, {gpu_name(gpu)}"
        figures.append(
            Figure(title, rates[1], "tokens/s", None, "NumPy", rates[0], better="higher")
        )
    report(figures)
    heading = f"{options.rows:,} rows, medians of {options.rounds} rounds"
    device = f"{gpu_name(gpu)} ms" if gpu is not None else "GPU ms"
    print_table(heading, ("method", "NumPy ms", device, "M tokens/s"), table)


if __name__ == "__main__":
    main()
