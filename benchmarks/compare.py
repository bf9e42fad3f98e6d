"""Says which figures of a benchmark differ between two commits beyond noise.

    python benchmarks/compare.py main HEAD                              # throughput, 7 rounds
    python benchmarks/compare.py main HEAD --benchmark judging --rounds 11 -- --calls 1024 --rounds 1
    python benchmarks/compare.py main HEAD --benchmark history -- --databases sqlite

What follows `--` are options of the benchmark.

- Each commit gets a git worktree and a virtual environment. The scripts are those of this checkout for
  both, so that both are measured alike. Packages of this environment are shared; pip fetches what
  builds the commit's own. If constraints.txt differs, compare environments of your own.
- A round runs the benchmark on both commits, one right after the other, in alternating order. A
  figure's ratio is B's to A's within a round, so that a machine that gets slower slows both.
- The interval is that of the median by the sign test: the ratios that at least 95 % of all such
  samples enclose (with six or more rounds; fewer give no verdict). A figure is worse or better if
  its interval excludes 1 and its median differs by more than `--least`.
- The exit status is 1 if a figure got worse.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import FIGURES_VARIABLE, Figure, print_table

ROOT = Path(__file__).parents[1]
CONFIDENCE = 0.95
DEFAULTS = {"throughput": ["--rounds", "1"], "judging": ["--rounds", "1"]}
"""Options of a benchmark whose own rounds are needless here."""


def interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return the confidence interval of the median by order statistics; None if there are too few.

    Source: the sign test (Conover, Practical Nonparametric Statistics, section 3.2).
    """
    ordered, n = sorted(ratios), len(ratios)
    found, below = None, 0.0
    for cut in range(n // 2):
        below += math.comb(n, cut) / 2**n
        if 1 - 2 * below < CONFIDENCE:
            break
        found = ordered[cut], ordered[n - 1 - cut]
    return found


def verdict(ratios: Sequence[float], better: str, least: float) -> str:
    """Say `worse`, `better` or `same` of ratios of B to A; `too few` if no interval exists."""
    bounds = interval(ratios)
    if bounds is None:
        return "too few rounds"
    median = statistics.median(ratios)
    if bounds[0] <= 1 <= bounds[1] or abs(median - 1) <= least:
        return "same"
    return "better" if (median > 1) == (better == "higher") else "worse"


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Make a worktree of a commit with an environment; yields the worktree."""
    tree = folder / "tree"
    _run("git", "worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        shutil.rmtree(tree / "benchmarks", ignore_errors=True)
        shutil.copytree(ROOT / "benchmarks", tree / "benchmarks")
        _run(sys.executable, "-m", "venv", "--without-pip", str(tree / ".venv"))
        packages = next((tree / ".venv/lib").glob("python3*/site-packages"))
        # The dependencies of this environment, after the commit's own package.
        paths = [sysconfig.get_path("purelib"), *_paths_added()]
        (packages / "zz_shared.pth").write_text("\n".join(paths) + "\n")
        python = tree / ".venv/bin/python"
        install = ["install", "--quiet", "--no-deps", "-e", str(tree)]
        _run(str(python), "-m", "pip", *install)
        yield tree
    finally:
        _run("git", "worktree", "remove", "--force", str(tree))


def _paths_added() -> list[str]:
    """Return the folders that `.pth` files of this environment add, but for this checkout."""
    mine = Path(sysconfig.get_path("purelib"))
    lines = [line for file in mine.glob("*.pth") for line in file.read_text().splitlines()]
    return [line for line in lines if line.startswith("/") and not Path(line).samefile(ROOT)]


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, cwd=ROOT)


def figures_of(tree: Path, script: str, options: Sequence[str]) -> dict[str, Figure]:
    """Run a benchmark in a worktree; returns its figures by name."""
    file = tree / ".figures.jsonl"
    file.unlink(missing_ok=True)
    environ = {**os.environ, FIGURES_VARIABLE: str(file)}
    environ["PATH"] = f"{tree / '.venv/bin'}:{environ['PATH']}"
    argv = [str(tree / ".venv/bin/python"), str(tree / "benchmarks" / f"{script}.py"), *options]
    subprocess.run(argv, check=True, cwd=tree, env=environ, stdout=subprocess.DEVNULL)
    found = [Figure(**json.loads(line)) for line in file.read_text().splitlines()]
    return {figure.name: figure for figure in found}


def main() -> None:
    """Measure both commits in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("a", help="the commit to compare with, e.g. main")
    parser.add_argument("b", help="the commit to judge, e.g. HEAD")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--least", type=float, default=0.02, help="smallest difference that counts")
    parser.add_argument("--benchmark", default="throughput", help="a script of benchmarks/")
    own, _, rest = " ".join(sys.argv[1:]).partition(" -- ")
    options = parser.parse_args(own.split())
    script_options = rest.split() or DEFAULTS.get(options.benchmark, [])
    ratios: dict[str, list[float]] = defaultdict(list)
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    better: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="oyer-compare-") as name:
        folder = Path(name)
        with checkout(options.a, folder / "a") as a, checkout(options.b, folder / "b") as b:
            for number in range(options.rounds):
                order = [a, b] if number % 2 == 0 else [b, a]
                found = {
                    tree: figures_of(tree, options.benchmark, script_options) for tree in order
                }
                for key in found[a].keys() & found[b].keys():
                    one, other = found[a][key].value, found[b][key].value
                    better[key] = found[b][key].better
                    values[key].append((one, other))
                    if one > 0:
                        ratios[key].append(other / one)
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    rows, worse = [], []
    for key, sides in values.items():
        said = verdict(ratios[key], better[key], options.least)
        bounds = interval(ratios[key])
        if said == "worse":
            worse.append(key)
        rows.append(
            (
                key,
                *(f"{statistics.median(side):.4g}" for side in zip(*sides, strict=True)),
                f"{statistics.median(ratios[key]):.3f}" if ratios[key] else "",
                f"{bounds[0]:.3f} … {bounds[1]:.3f}" if bounds else "",
                said,
            )
        )
    headings = ("figure", options.a, options.b, "B / A", "95 % interval", "B is")
    print_table(f"{options.benchmark}, {options.rounds} paired rounds", headings, sorted(rows))
    if worse:
        raise SystemExit("worse: " + ", ".join(worse))


if __name__ == "__main__":
    main()
