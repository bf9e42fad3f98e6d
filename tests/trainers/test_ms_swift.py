"""ms-swift's own `AsyncORM`, plug-in loader and reward computation with the example."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_backend import Backend, judged, score_of

from oyer.demo.responses import Action, named

STEPS = Path(__file__).with_name("swift_steps.py")
LENGTHS = (10, 10, 10, 16)


def plan(arrival: Any) -> Action:
    """Score a response by its last message, unless it asks for a storm."""
    shown = "\n".join(content for _, content in arrival.messages())
    last = re.search(r"turned \d\.", shown)
    text = judged(arrival) if last is None else last[0]
    storm = named("rate_limited", retry_after_s=0)
    return storm if "storm" in text else Action(text=f"Final score: {score_of(text)}")


def test_its_steps_have_the_rewards_on_record(backend: Backend, tmp_path: Path) -> None:
    """Each step has an event loop of its own; the last ones are of two turns, and of a storm."""
    backend.judge.set_plan(plan)
    groups = {name: [f"{name} {i}." for i in range(4)] for name in ("first", "second", "storm")}
    steps = [
        [[f"{name}?", [text], length] for text, length in zip(texts, LENGTHS, strict=True)]
        for name, texts in groups.items()
    ]
    # What the policy said first differs, so that the rows' prompts do.
    turns = [["turns?", [f"Let me see {i}.", f"turned {i}."], n] for i, n in enumerate(LENGTHS)]
    file = backend.file("swift.yaml", length={"method": "median_band"})
    command = [sys.executable, str(STEPS), json.dumps([*steps, turns])]
    # What it writes at import belongs to this test.
    environment = {**os.environ, "OYER_CONFIG": str(file), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    first, second, storm, turned = json.loads(done.stdout.splitlines()[-1])
    groups["turned"] = [f"turned {i}." for i in range(4)]
    recorded = backend.recorded("trl")
    for name, rewards in (("first", first), ("second", second), ("turned", turned)):
        scores = [0.1 * score_of(text) for text in groups[name]]
        assert rewards == pytest.approx([*scores[:3], scores[3] - 1])
        found = [next(r for said, r in recorded.items() if text in said) for text in groups[name]]
        assert rewards == pytest.approx(found)
    assert all(map(math.isnan, storm))
    # The policy's words of both turns, and what was said between them, in this order.
    (asked,) = [
        text
        for arrival in backend.judge.requests
        if "turned 0." in (text := "\n".join(content for _, content in arrival.messages()))
    ]
    heading = asked.rindex("## Response to judge")
    places = [asked.index(text, heading) for text in ("Let me see 0.", "Go on.", "turned 0.")]
    assert places == sorted(places)
    assert "turns?" in asked[:heading]


def test_completions_that_were_cut_are_masked(backend: Backend, tmp_path: Path) -> None:
    """ms-swift says which ones, by `finish_reason`."""
    backend.judge.set_plan(plan)
    length = {"method": "median_band", "truncated": "mask"}
    file = backend.file("swift-cut.yaml", length=length)
    rows = [["cut?", [f"cut {i}."], 10, reason] for i, reason in enumerate(["stop", "length"] * 2)]
    environment = {**os.environ, "OYER_CONFIG": str(file), "HOME": str(tmp_path)}
    command = [sys.executable, str(STEPS), json.dumps([rows])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    (rewards,) = json.loads(done.stdout.splitlines()[-1])
    assert [math.isnan(reward) for reward in rewards] == [False, True, False, True]
