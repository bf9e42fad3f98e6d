"""Runs the benchmarks and writes docs/benchmarks.md and docs/benchmarks.json.

    python benchmarks/bench_all.py                        # full, for the docs; on a quiet machine
    python benchmarks/bench_all.py --quick                # small settings, a few minutes
    python benchmarks/bench_all.py --only fairness history --quick

- Each benchmark runs in a process of its own, one after the other, and reports its figures by
  `common.report`. A benchmark that fails is named at the end, and the exit status is 1.
- A run replaces the figures of the benchmarks that it ran; the others keep theirs, with their own
  machine and date. The page is a rendering of the JSON, which is the source.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import FIGURES_VARIABLE

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"

SUITES: dict[str, tuple[list[str], list[str]]] = {
    "throughput": (["--rounds", "1", "--rollouts", "512"], ["--rounds", "5"]),
    "judging": (["--rounds", "1", "--calls", "512"], ["--rounds", "5"]),
    "fairness": (["--scale", "0.125"], []),
    "hedging": (["--rounds", "1", "--rollouts", "512"], []),
    "single_calls": (["--rounds", "1", "--rollouts", "256"], []),
    "overlap": (["--rounds", "1", "--rollouts", "256", "--generation-s", "4"], []),
    "small_batches": (["--rounds", "1", "--rollouts", "256"], []),
    "history": (["--sizes", "10000", "40000", "--rounds", "2"], ["--sizes", "100000", "1000000"]),
    "scale": ([], ["--full"]),
    "shared_limit": ([], ["--full"]),
    "lengths": (["--rounds", "3", "--rows", "10000", "--tokens", "1000000"], []),
}
"""Script, and its options in a quick and in a full run."""

PAGE = """# Benchmarks

What Oyer costs beside its peers and bounds, as `make bench-all` measured it with the scripts in
`benchmarks/`; `docs/benchmarks.json` has the same figures. Each line was
measured against its peer in the same run, on the machine and date that it names. Compare ratios, not
seconds: the judge server and the peers share the machine.

`python benchmarks/compare.py A B` says which figures differ between two commits beyond noise.
"""
EMPTY = "No run has been recorded here yet. [Sizing](sizing.md#throughput) has figures of single benchmarks.\n"


def machine() -> str:
    """Return the CPU model and the number of cores of this machine."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = " ".join(line.partition(":")[2].split())
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def figures_of(name: str, options: list[str]) -> list[dict[str, Any]]:
    """Run a benchmark, whose tables go to this process's output, and return its figures.

    Raises:
        subprocess.CalledProcessError: the benchmark failed.
        ValueError: it reported no figure.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.jsonl"
        environ = {**os.environ, FIGURES_VARIABLE: str(file)}
        subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py"), *options], check=True, env=environ
        )
        lines = file.read_text().splitlines() if file.exists() else []
    if not lines:
        raise ValueError(f"{name}: reports no figure")
    place = {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "options": " ".join(options),
    }
    return [json.loads(line) | place for line in lines]


def page_of(by_name: dict[str, list[dict[str, Any]]]) -> str:
    """Render the figures of all benchmarks as Markdown."""
    parts = [PAGE] if by_name else [PAGE, EMPTY]
    for name, figures in by_name.items():
        parts.append(f"## {name}\n")
        parts.append(
            "| figure | value | bound | × bound | peer | × peer | options | machine | date |"
        )
        parts.append("|---|---:|---:|---:|---|---:|---|---|---|")
        parts += [_line(figure) for figure in figures]
        parts.append("")
    return "\n".join(parts)


def _line(figure: dict[str, Any]) -> str:
    value, unit = figure["value"], figure["unit"]

    def times(other: float | None) -> str:
        return f"{value / other:.2f}" if other else ""

    peer = f"{figure['peer']}: {figure['peer_value']:.4g} {unit}" if figure["peer"] else ""
    bound = "" if figure["bound"] is None else f"{figure['bound']:.4g}"
    cells = (
        figure["name"].replace("|", "\\|"), f"{value:.4g} {unit}", bound, times(figure["bound"]),
        peer, times(figure["peer_value"]), f"`{figure['options']}`" if figure["options"] else "",
        figure["machine"], figure["date"],
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the benchmarks, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small settings, to try it")
    parser.add_argument("--only", nargs="+", choices=list(SUITES), help="run only these")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of both files")
    options = parser.parse_args()
    file = options.out / "benchmarks.json"
    by_name: dict[str, list[dict[str, Any]]] = json.loads(file.read_text()) if file.exists() else {}
    failed = []
    for name in options.only or SUITES:
        try:
            by_name[name] = figures_of(name, SUITES[name][0 if options.quick else 1])
        except subprocess.CalledProcessError as error:
            failed.append(f"{name}: exit status {error.returncode}")
        except ValueError as error:
            failed.append(str(error))
        file.write_text(json.dumps(by_name, indent=1) + "\n")
        (options.out / "benchmarks.md").write_text(page_of(by_name))
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
