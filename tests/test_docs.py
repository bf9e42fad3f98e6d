"""README.md is short and shows what it must; CONTRIBUTING.md names files that exist.

tests/docs checks the snippets and the generated parts of all pages.
"""

import re
from typing import get_args

import yaml

from oyer.config.loading import validate
from oyer.config.reward import RewardRules
from tests.support.doc_pages import blocks_of
from tests.support.paths import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len(README.read_text().splitlines()) <= 130


def test_the_readme_shows_a_criteria_judge_and_a_group_judge_in_ten_lines_each() -> None:
    shown = [block for block in blocks_of(README) if block.language == "yaml"]
    judges = [judge for block in shown for judge in validate(yaml.safe_load(block.text)).judges]
    assert [bool(judge.criteria) for judge in judges] == [True, False]
    assert [judge.kind for judge in judges] == ["pointwise", "group"]
    assert max(len(block.text.splitlines()) for block in shown) <= 10


def test_the_readme_and_the_first_page_have_the_same_commands_and_program() -> None:
    start = {block.text for block in blocks_of(DOCS / "start.md")}
    shown = [block for block in blocks_of(README) if block.language in ("sh", "python", "text")]
    assert len(shown) == 3
    assert {block.text for block in shown} <= start


def test_every_policy_for_a_missing_score_has_a_row() -> None:
    text = (DOCS / "trainers" / "index.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert set(get_args(RewardRules.model_fields["on_missing"].annotation)) <= rows


def test_the_files_that_contributing_names_exist() -> None:
    paths = re.findall(r"`((?:[a-z_]+/)+[a-z_.]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
