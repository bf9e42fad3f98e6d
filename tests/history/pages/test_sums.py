"""The formula on a score's page gives the reward that `compose` computed, for every kind of term."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from oyer.config.length import term_names
from oyer.config.length_methods.catalogue import METHODS
from oyer.config.reward import RewardConfig
from oyer.history.pages.sums import RewardSum, reward_sum
from oyer.history.words import Piece, difference, marked
from oyer.protocol.batch import Columns
from oyer.protocol.partial_results import LengthResult
from oyer.protocol.status import Status
from oyer.tasks.rewards.compose import RewardInputs, batch_result, compose
from oyer.tasks.rewards.missing_judges import Verdicts
from tests.support.page_record import add_batch

RNG = np.random.default_rng(0)


def config(judges: int, lengths: list[dict[str, Any]], **rules: Any) -> RewardConfig:
    names = [f"q{k}" for k in range(judges)]
    fallback = {"fallback": {"endpoint": "e", "model": "other"}} if judges > 2 else {}
    return RewardConfig.model_validate(
        {
            "endpoints": {"e": {"base_url": "http://127.0.0.1:9/v1"}},
            "judges": [
                {"name": name, "endpoint": "e", "model": "m", "weight": 0.1 * (k + 1), **fallback}
                for k, name in enumerate(names)
            ],
            "length": lengths,
            "reward": rules,
        }
    )


def explained(
    settings: RewardConfig, length: LengthResult, correct: bool | None = None
) -> tuple[RewardSum, float]:
    """Compose one rollout's reward, and write it out again from what is on record."""
    verdicts = {
        judge.name: Verdicts(scores=RNG.uniform(2, 9, 1), statuses=[Status.SCORED])
        for judge in settings.judges
    }
    columns = Columns(
        group_ids=["g"], base_score=[0.75], correct=[correct], truncated=[False],
        response_tokens=[5],
    )  # fmt: skip
    inputs = RewardInputs(
        columns=columns, judges=settings.judges, verdicts=verdicts, rules=settings.reward
    )
    result = batch_result(
        "b", compose(inputs, length), length, usage=dict.fromkeys(("calls",), 0), first_errors={}
    )
    recorded = {name: float(values[0]) for name, values in result.recorded.items()}
    plan = {
        "judges": [judge.model_dump(mode="json") for judge in settings.judges],
        "length": [item.model_dump(mode="json") for item in settings.length],
        "reward": settings.reward.model_dump(mode="json"),
    }
    return reward_sum(recorded, float(result.rewards[0]), plan), float(result.rewards[0])


def value(found: RewardSum) -> float:
    factor = np.prod([term.value or 0.0 for term in found.factors])
    inner = sum(term.value or 0.0 for term in found.inner)
    return float(factor * inner + sum(term.value or 0.0 for term in found.added))


PLACES = {"add": "added", "multiply": "multiplied", "total": "changed"}
"""Field of `LengthResult` by the kind of a method."""

REQUIRED = {"length_controlled": {"phi": 0.1, "scale_len": 100, "reference_len": 100}}


def length_of(settings: RewardConfig) -> LengthResult:
    """Give each length method a value of its kind."""
    found: dict[str, Any] = {}
    for name, item in zip(term_names(settings.length), settings.length, strict=True):
        found.setdefault(PLACES[item.kind], {})[name] = np.array([0.375])
    return LengthResult(**found)


@pytest.mark.parametrize("judges", [0, 1, 2, 3])
def test_the_formula_of_judges_gives_the_reward(judges: int) -> None:
    settings = config(judges, [])
    found, reward = explained(settings, LengthResult())
    assert found.rest is None
    assert value(found) == pytest.approx(reward, rel=1e-5)
    judged = {f"judge:q{k}" for k in range(judges)} if judges > 1 else {"judge"}
    assert {term.name for term in found.inner} == {"base_score"} | judged
    hows = [term.how for term in found.inner if term.name in judged]
    assert all(" × " in how for how in hows) or not judges


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.kind in PLACES])
def test_the_formula_of_each_length_method_gives_the_reward(method: str) -> None:
    settings = config(2, [{"method": method, **REQUIRED.get(method, {})}])
    found, reward = explained(settings, length_of(settings))
    assert found.rest is None
    assert value(found) == pytest.approx(reward, rel=1e-5)
    kind = METHODS[method].kind
    places = {"add": found.added, "multiply": found.factors, "total": found.inner}
    assert term_names(settings.length)[0] in [term.name for term in places[kind]]


def test_several_kinds_and_a_gate_give_the_reward() -> None:
    methods = ("sigmoid_length", "stop_properly_penalty", "median_band", "cosine")
    settings = config(3, [{"method": m} for m in methods], zero_unless="correct")
    for correct in (True, False):
        found, reward = explained(settings, length_of(settings), correct)
        assert found.rest is None
        assert value(found) == pytest.approx(reward, rel=1e-5, abs=1e-6)
        assert found.factors[0].name == "gate"
        assert len(found.factors) == 3


def test_a_reward_that_the_terms_do_not_give_is_shown_with_the_rest() -> None:
    found = reward_sum({"base_score": 1.0, "judge": 0.5}, 1.75, {"judges": [], "length": []})
    assert found.rest == pytest.approx(0.25)


def test_a_missing_term_leaves_no_rest() -> None:
    found = reward_sum({"base_score": 1.0, "judge": None}, None, {"judges": [], "length": []})
    assert found.rest is None
    assert [term.value for term in found.terms] == [1.0, None]


def test_the_last_occurrence_of_the_span_is_marked() -> None:
    assert marked("7, no: 7", "7") == [Piece("7, no: "), Piece("7", "span"), Piece("")]
    assert marked("none", "7") == [Piece("none")]
    assert marked("none", None) == [Piece("none")]


def test_words_that_differ_are_marked() -> None:
    pieces = difference("the blue sky", "the red sky") or []
    assert [piece for piece in pieces if piece.kind] == [
        Piece("red ", "left-out"),
        Piece("blue ", "added"),
    ]
    shorter = difference("a sky", "a sky of blue") or []
    assert not [piece for piece in shorter[:2] if piece.kind == "added"]
    assert "".join(p.text for p in pieces if p.kind != "left-out") == "the blue sky"


def test_texts_that_take_too_long_to_compare_are_not_compared() -> None:
    assert difference("a b " * 1000, "a b " * 900) is None
    assert difference("one two, " * 2000, "one") is None
    assert difference("a b " * 300, "b a " * 300) is not None


def test_a_group_says_where_no_words_are_marked(client: TestClient, engine: Engine) -> None:
    responses = ["so on and " * 1000, "and so on " * 900]
    batch = add_batch(engine, responses, scores=[{"quality": 5.0}, {"quality": 4.0}])
    page = client.get(f"/groups/{batch}/0").text
    assert page.count("Too long or too repetitive to mark words") == 1
    assert page.count("<pre") == 3
