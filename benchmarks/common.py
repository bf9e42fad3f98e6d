"""What the benchmarks share: rollouts that differ, a judge that waits, and Oyer's backend for it."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import openai
from rich.console import Console
from rich.table import Table

from oyer.demo.judge_server import judge_process
from oyer.manager import RewardManager, Rollout

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support

FIGURES_VARIABLE = "OYER_BENCH_FIGURES"
"""Names a file that `report` adds figures to; `bench_all.py` and `compare.py` set it."""

REPLY = "The answer is right and short.\n\nFinal score: 8"
RESPONSE_BYTES = 4096

_FILE_COLUMNS = 200
"""Width of a table written to a file or a pipe, in characters."""


def texts(count: int, tag: str) -> list[str]:
    """Make responses that differ, so that none is read from the cache."""
    filler = "the sum of two numbers is checked step by step; "
    body = (filler * (RESPONSE_BYTES // len(filler) + 1))[: RESPONSE_BYTES - 40]
    return [f"{tag} {i}: {body}" for i in range(count)]


def rollouts_of(count: int, tag: str) -> list[Rollout]:
    """Make rollouts that differ, in groups of 8."""
    return [
        Rollout(
            prompt=f"Question {i // 8} of {tag}",
            response=response,
            group_id=f"{tag}-{i // 8}",
            base_score=1.0,
            response_tokens=900 + i % 200,
        )
        for i, response in enumerate(texts(count, tag))
    ]


def judge(latency_s: float) -> AbstractContextManager[str]:
    """Run a judge server that answers every call after `latency_s`; yields its base URL."""
    return judge_process("--latency-s", str(latency_s), "--text", REPLY, "--body-limit-bytes", "0")


@contextmanager
def backend(base_url: str, in_flight: int, folder: str) -> Iterator[RewardManager]:
    """Start Oyer's embedded backend for one setting."""
    config = {
        "endpoints": {"bench": {"base_url": base_url, "max_in_flight": in_flight}},
        "judges": [{"name": "q", "endpoint": "bench", "model": "bench"}],
        "length": {"method": "median_band"},
        "store": {"url": f"sqlite:///{folder}/bench.db"},
    }
    with RewardManager.local(config) as manager:
        yield manager


async def call(client: openai.AsyncOpenAI, rollout: Rollout) -> str | None:
    """Ask the judge as a program without Oyer does."""
    answer = await client.chat.completions.create(
        model="bench",
        messages=[
            {"role": "system", "content": "Score the response from 1 to 10."},
            {"role": "user", "content": f"{rollout.prompt}\n\n{rollout.response}"},
        ],
    )
    return answer.choices[0].message.content


async def gather(base_url: str, rollouts: list[Rollout], in_flight: int) -> None:
    """Make all calls by `asyncio.gather` over AsyncOpenAI with a semaphore."""
    gate = asyncio.Semaphore(in_flight)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def gated(rollout: Rollout) -> str | None:
            async with gate:
                return await call(client, rollout)

        await asyncio.gather(*map(gated, rollouts))


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print figures right-aligned; headings are broken between words, and never cut."""
    table = Table(title=title)
    for heading in headings:
        # A column narrower than a word of its heading would cut the word.
        width = max(map(len, heading.split()))
        table.add_column(heading, justify="right", min_width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table)


@dataclass(frozen=True)
class Figure:
    """One line of the page of all benchmarks."""

    name: str
    """What was measured; `compare.py` finds the same figure of another commit by it."""
    value: float
    unit: str
    bound: float | None = None
    """What cannot or must not be exceeded, in the same unit."""
    peer: str | None = None
    peer_value: float | None = None
    """The peer's figure in the same run, in the same unit."""
    better: str = "lower"
    """`lower` or `higher`."""


def report(figures: Iterable[Figure]) -> None:
    """Add figures to the file that the environment names, one JSON object a line, if it names one."""
    path = os.environ.get(FIGURES_VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.writelines(json.dumps(asdict(figure)) + "\n" for figure in figures)
