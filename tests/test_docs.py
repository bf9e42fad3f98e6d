"""The README is correct: its configuration, tables, SQL and commands.

`python -m tests.test_docs` writes what is generated anew; `make docs` calls it.
"""

import re
import shlex
from typing import get_args

import pytest
import yaml
from typer.testing import CliRunner

from oyer.cli import app
from oyer.cli.support.example_config import example
from oyer.config.loading import validate
from oyer.config.reward import RewardRules
from oyer.models.engine import open_engine, reading
from oyer.protocol.status import Status
from tests.support.paths import ROOT

README = ROOT / "README.md"
EXAMPLE = ROOT / "oyer.example.yaml"

KEYS = re.compile(
    r"(<summary>Every key, with its default</summary>\n\n```yaml\n).*?(```)", re.DOTALL
)


def with_every_key(readme: str) -> str:
    """Put the example configuration where the README explains every key."""
    return KEYS.sub(lambda found: found[1] + example() + found[2], readme)


def blocks(language: str) -> list[str]:
    """Give the README's code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands() -> list[list[str]]:
    """Give the arguments of each `oyer …` that the README tells to type."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    spans = re.findall(r"`(oyer [a-z][^`]*)`", README.read_text())
    typed = [line for line in lines if line.startswith("oyer ")] + spans
    return [shlex.split(line.split(" > ")[0], comments=True)[1:] for line in typed]


def test_the_files_explain_every_key_as_the_code_does() -> None:
    assert KEYS.search(README.read_text())
    assert README.read_text() == with_every_key(README.read_text()), "run `make docs`"
    assert EXAMPLE.read_text() == example(), "run `make docs`"


def test_the_short_configuration_is_one_that_loads() -> None:
    config = validate(yaml.safe_load(blocks("yaml")[0]))
    assert config.judges[0].endpoint in config.endpoints


def test_every_status_and_every_policy_has_a_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE))
    assert {status.value for status in Status} <= rows
    assert set(get_args(RewardRules.model_fields["on_missing"].annotation)) <= rows


@pytest.mark.parametrize("query", blocks("sql"), ids=lambda query: " ".join(query.split())[:40])
def test_each_query_runs_on_the_record(query: str, store_url: str) -> None:
    engine = open_engine(store_url)
    with reading(engine) as conn:
        assert conn.exec_driver_sql(query).all() == []
    engine.dispose()


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_each_command_is_one_that_the_command_line_has(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


def test_the_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (ROOT / target).exists(), target


def test_the_files_that_contributing_names_exist() -> None:
    paths = re.findall(r"`((?:[a-z_]+/)+[a-z_.]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


if __name__ == "__main__":
    README.write_text(with_every_key(README.read_text()))
    EXAMPLE.write_text(example())
