"""The example configuration, and the errors of invalid configurations."""

import re
from pathlib import Path

import pytest
import yaml

from oyer.config.loading import load_config, validate
from tests.support.cli_process import oyer
from tests.support.paths import ROOT

DEFAULT = re.compile(r"^(\s*(?:- )?)#(\w)", re.MULTILINE)
"""A key with its default value, behind `#`."""


def test_the_printed_example_is_the_file_in_the_repository(tmp_path: Path) -> None:
    printed = oyer("config", cwd=tmp_path).stdout
    assert printed == (ROOT / "oyer.example.yaml").read_text(), "run `make docs`"


def test_the_example_loads(tmp_path: Path) -> None:
    config = load_config(ROOT / "oyer.example.yaml", {})
    assert [judge.name for judge in config.judges] == ["tool_quality"]
    assert [item.method for item in config.length] == ["median_band"]


def test_the_defaults_in_the_example_are_the_defaults() -> None:
    text = (ROOT / "oyer.example.yaml").read_text()
    spelt_out = DEFAULT.sub(r"\1\2", text)
    assert spelt_out != text
    assert validate(yaml.safe_load(spelt_out)) == validate(yaml.safe_load(text))


WRONG = {
    "judges[0].wieght: unknown key": "judges: [{name: q, endpoint: e, model: m, wieght: 1}]",
    "[lowest, highest]": "judges: [{name: q, endpoint: e, model: m, scale: [10, 1]}]",
    "is not readable": "judges: [",
}


@pytest.mark.parametrize(("shown", "text"), WRONG.items(), ids=list(WRONG))
def test_an_invalid_configuration_is_one_error_that_names_the_key(
    shown: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "oyer.yaml").write_text(text)
    done = oyer("check", "--config", "oyer.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error configuration file oyer.yaml: ")
    assert shown in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["up"], ["worker", "judge"]], ids=" ".join)
def test_a_missing_configuration_file_is_named(command: list[str], tmp_path: Path) -> None:
    done = oyer(*command, "--config", "none.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error configuration file none.yaml: No such file or directory; give a file that exists\n"
    )


def test_the_minimal_configuration_loads_and_judges(tmp_path: Path) -> None:
    printed = oyer("config", "--minimal", cwd=tmp_path).stdout
    config = validate(yaml.safe_load(printed))
    assert [judge.endpoint for judge in config.judges] == list(config.endpoints)
    assert config.length == ()
    assert len(printed.splitlines()) < 15


def test_every_value_of_an_enumeration_is_listed() -> None:
    text = " ".join((ROOT / "oyer.example.yaml").read_text().replace("#", " ").split())
    for values in (
        ("base_score", "none"),
        ("skip", "value", "group_mean", "raise"),
        ("mean", "median"),
        ("tokens", "chars", "bytes"),
        ("response", "think", "answer"),
        ("as_is", "mask", "wrong"),
        ("think", "answer", "invalid"),
        ("run", "store", "off"),
    ):
        for value in values:
            assert f"`{value}`" in text, value


def test_the_file_of_the_folder_is_used_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "oyer.yaml").write_text("jugdes: []")
    done = oyer("up", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("using ./oyer.yaml\nerror configuration file oyer.yaml: jugdes")
    (tmp_path / "other.yaml").write_text("endpionts: {}")
    done = oyer("up", cwd=tmp_path, OYER_CONFIG="other.yaml")
    assert done.stderr.startswith("error configuration file other.yaml: endpionts")
