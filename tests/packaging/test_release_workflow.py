"""The release workflow: it parses, pins its actions, and signs what it has tested."""

import re
import tomllib
from typing import Any

import yaml

from tests.support.paths import ROOT

WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]


def test_every_action_is_pinned_to_a_full_version() -> None:
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert len(used) == 8
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@v\d+\.\d+\.\d+", name)] == []


def test_it_publishes_what_passed_the_tests_and_only_then() -> None:
    assert JOBS["test"]["needs"] == "build"
    assert JOBS["publish"]["needs"] == "test"
    # YAML reads a bare `on` as true.
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}


def test_only_the_publishing_job_may_sign() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [name for name, job in JOBS.items() if "permissions" in job] == ["publish"]
    assert JOBS["publish"]["permissions"]["id-token"] == "write"
    signed = {step["uses"].partition("@")[0]: step["with"] for step in JOBS["publish"]["steps"]}
    assert signed["pypa/gh-action-pypi-publish"] == {"attestations": True}
    assert signed["actions/attest-build-provenance"] == {"subject-path": "dist/*"}


def test_the_wheel_is_tested_on_every_python_that_the_package_supports() -> None:
    pythons = JOBS["test"]["strategy"]["matrix"]["python"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pythons[0] == settings["requires-python"].removeprefix(">=")
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert [f"Programming Language :: Python :: {python}" for python in pythons] == [
        line for line in settings["classifiers"] if line.count(".") == 1
    ]
