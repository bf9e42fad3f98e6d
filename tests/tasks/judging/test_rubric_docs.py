"""What docs/rubrics.md says about rubrics and verdicts holds."""

import re
import shlex

import pytest
import yaml
from typer.testing import CliRunner

from oyer.cli import app
from oyer.config import rubric as rubrics
from oyer.config.judge import JudgeConfig
from oyer.config.rubric import _KNOWN, _FrontMatter
from oyer.protocol.status import Status
from oyer.tasks.parsing.parser import parse_score
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "rubrics.md").read_text()
SCALE = (1.0, 10.0)


def rows(heading: str) -> list[tuple[str, str]]:
    """Give the first two cells of each row of the table whose heading begins so."""
    table = TEXT.split(f"| {heading}", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `(.+?)` \| (.+?) \|", table, re.MULTILINE)


READ = rows("reply ends with | score |")
UNREAD = rows("reply ends with | why |")


def test_the_example_is_a_rubric_that_places_everything() -> None:
    [example] = re.findall(r"```markdown\n(.*?)```", TEXT, re.DOTALL)
    rubric = rubrics.parse(rubrics.resolve(example))
    assert rubric.name == "manners"
    assert rubrics.asks_for_verdict(rubric)
    assert [len(criterion.choices) for criterion in rubric.criteria] == [3, 0]
    system, _ = rubrics.render(rubric, prompt="p", response="r", reference=None, scale=SCALE)
    assert "{" not in system["content"]


def test_each_key_and_each_placeholder_has_a_row() -> None:
    assert {key for key, _ in rows("key |")} == set(_FrontMatter.model_fields)
    named = TEXT.split("| placeholder |", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"`\{(\w+)\}`", named)) == _KNOWN
    assert "`{metadata.KEY}`" in named


def test_both_tables_of_replies_are_there() -> None:
    assert (len(READ), len(UNREAD)) == (11, 9)


@pytest.mark.parametrize(("reply", "score"), READ)
def test_a_documented_verdict_is_read(reply: str, score: str) -> None:
    assert parse_score(f"It holds together.\n{reply}", scale=SCALE).score == float(score)


@pytest.mark.parametrize(("reply", "why"), UNREAD)
def test_a_documented_non_verdict_is_not_read(reply: str, why: str) -> None:
    reading = parse_score(f"It holds together.\n{reply}", scale=SCALE)
    assert reading.status is Status.UNPARSEABLE, why


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Rate {response}.", False),
        ("Rate {response}. {verdict}", True),
        ("---\nreason_first: false\n---\nRate {response}.", True),
        ("---\nlanguage: zh\n---\nRate {response}.", False),
    ],
    ids=["bare", "placed", "by front matter", "other front matter"],
)
def test_whether_a_rubric_asks_for_a_verdict(text: str, asks: bool) -> None:
    assert rubrics.asks_for_verdict(rubrics.parse(text)) is asks


def test_latex_and_json_are_left_as_they_are() -> None:
    text = 'Give \\frac{a} or {"score": 7}: {response}'
    [message] = rubrics.render(
        rubrics.parse(text), prompt="p", response="r", reference=None, scale=SCALE
    )
    assert message["content"].startswith('Give \\frac{a} or {"score": 7}: ```')


def test_the_judge_of_the_text_is_one_that_loads() -> None:
    [config] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    [judge] = yaml.safe_load(config)["judges"]
    assert JudgeConfig.model_validate({**judge, "rubric": "reasoning_en"}).scale == SCALE


def test_each_command_is_one_that_the_command_line_has() -> None:
    [block] = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines():
        typed = shlex.split(line.split(" > ")[0], comments=True)
        assert typed[0] == "oyer"
        done = CliRunner().invoke(app, [*typed[1:], "--help"])
        assert done.exit_code == 0, done.output
