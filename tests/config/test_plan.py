"""A worker reads a batch's plan."""

from pathlib import Path
from typing import Any

import pytest

from oyer.config.loading import validate
from oyer.config.plan import read_plan
from oyer.config.reward import plan_of
from oyer.manager.stand_ins import with_group_mean
from oyer.protocol.batch import Manifest, decode_manifest, encode_manifest
from oyer.protocol.errors import MessageRefused

CONFIG = validate(
    {
        "judges": [
            {"name": "q", "endpoint": "e", "model": "m", "rubric": "tool_call_zh", "scale": [0, 5]},
            {"name": "style", "endpoint": "e", "model": "m", "weight": -0.25},
        ],
        "length": [{"method": "median_band", "peak_ratio": 0.2}, {"method": "soft_overlong"}],
        "reward": {"gate": "none", "on_missing": {"value": 2.5}},
        "reuse": "run",
        "tokenizer": "gpt2",
    }
)


def manifest_of(plan: dict[str, Any]) -> Manifest:
    manifest = Manifest(
        batch_id="b", run="r", step=None, submitted_at=1.0, deadline=2.0, plan=plan, chunks=[(0, 1)]
    )
    return decode_manifest(encode_manifest(manifest))


def test_a_plan_is_read_as_it_was_sent() -> None:
    plan = read_plan(manifest_of(plan_of(CONFIG)))
    assert plan.judges == CONFIG.judges
    assert plan.length == CONFIG.length
    assert plan.reward == CONFIG.reward
    assert (plan.reuse, plan.tokenizer) == ("run", "gpt2")


def test_a_plan_may_fill_in_for_the_judges_beside_a_group_judge() -> None:
    """An adapter makes such a configuration; a user's own is refused (test_group_judges.py)."""
    judges = [
        {"name": "q", "endpoint": "e", "model": "m"},
        {"name": "ranking", "kind": "group", "endpoint": "e", "model": "m"},
    ]
    config = with_group_mean(validate({"judges": judges, "length": []}))
    assert read_plan(manifest_of(plan_of(config))).reward.on_missing == "group_mean"


def test_an_empty_plan_has_no_judges_and_no_lengths() -> None:
    plan = read_plan(manifest_of(plan_of(validate({}))))
    assert (plan.judges, plan.length) == ((), ())


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": True},
        {"judges": [{"name": "q"}]},
        {"length": [{"method": "of_tomorrow"}]},
        {"reward": {"gate": "of_tomorrow"}},
    ],
    ids=str,
)
def test_a_plan_of_another_version_is_refused_with_the_fix(change: dict[str, Any]) -> None:
    with pytest.raises(MessageRefused) as caught:
        read_plan(manifest_of({**plan_of(CONFIG), **change}))
    assert str(caught.value).startswith("the plan of batch b cannot be read by this worker (")
    assert "run the same release of Oyer on the trainer and the workers" in str(caught.value)


def test_an_error_names_the_key_without_the_rubric() -> None:
    plan = plan_of(CONFIG)
    plan["judges"][0]["rubric"] = "A secret rubric: {unknown} {response}"
    with pytest.raises(MessageRefused, match=r"judges\[0\]\.rubric: ") as caught:
        read_plan(manifest_of(plan))
    assert "secret" not in str(caught.value)


def test_a_plan_cannot_make_a_worker_read_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("not for judges {response}")
    plan = plan_of(CONFIG)
    plan["judges"][0]["rubric"] = str(tmp_path / "secret.md")
    with pytest.raises(MessageRefused, match=r"judges\[0\]\.rubric: is a file path, which only"):
        read_plan(manifest_of(plan))
