"""`oyer length` lists the methods as text and JSON, and plots them."""

import json
from pathlib import Path

import numpy as np
import pytest

from oyer.cli.views.curves import curves
from oyer.cli.views.plots import HEIGHT, as_picture, as_text
from oyer.config.length_methods.catalogue import METHODS
from oyer.protocol.errors import InvalidInput
from tests.support.cli_process import oyer
from tests.support.length_inputs import NEEDED

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_method_is_listed_with_its_kind_and_parameters(tmp_path: Path) -> None:
    listed = {fact["method"]: fact for fact in json.loads(shown("list", "--json", cwd=tmp_path))}
    assert listed.keys() == METHODS.keys()
    for name, method in METHODS.items():
        fact = listed[name]
        assert (fact["kind"], fact["paper"]) == (method.kind, method.paper)
        assert fact["needs"] == sorted(method.needs)
        assert fact["params"].keys() == method.params.model_fields.keys()
    default = {"default": 0.3, "required": False}
    assert listed["median_band"]["params"]["peak_ratio"].items() >= default.items()


def test_the_list_and_a_single_method_are_printed(tmp_path: Path) -> None:
    for arguments in (("list",), ("list", "median_band")):
        text = shown(*arguments, cwd=tmp_path)
        for part in ("median_band", "outer_ratio", "group_ids", "No penalty around"):
            assert part in text


def test_methods_are_listed_by_name(tmp_path: Path) -> None:
    listed = json.loads(shown("list", "--json", cwd=tmp_path))
    names = [method["method"] for method in listed]
    assert names == sorted(names)
    assert len(names) > 30


def test_an_unknown_method_or_parameter_is_refused_with_the_fix(tmp_path: Path) -> None:
    for arguments, hint in (
        (("list", "median_bend"), "did you mean `median_band`"),
        (("plot", "gr3", "--param", "alhpa=1"), "its parameters: alpha"),
        (("plot", "gr3", "--param", "alpha"), "must be key=value"),
        (("plot", "repetition_dense"), "cannot be plotted over length"),
    ):
        done = oyer("length", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert hint in done.stderr


def test_a_plot_is_printed_as_text_or_written_as_png(tmp_path: Path) -> None:
    drawn = shown("plot", "soft_overlong", "--param", "max_len=1000", cwd=tmp_path)
    assert "soft_overlong (max_len 1000): added to the reward" in drawn
    assert "1250" in drawn
    for name, begin in (("gr3.png", PNG), ("gr3.svg", b"<?xml"), ("gr3.pdf", b"%PDF")):
        done = oyer("length", "plot", "gr3", "--out", name, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"wrote {name}\n")
        assert (tmp_path / name).read_bytes().startswith(begin)
    refused = oyer("length", "plot", "gr3", "--out", "gr3.bmp", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--out gr3.bmp: must end in .png, .svg, .pdf" in refused.stderr


def shown(*arguments: str, cwd: Path) -> str:
    done = oyer("length", *arguments, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_band_has_no_penalty_inside_and_the_full_penalty_outside() -> None:
    drawn = curves("median_band", {"max_penalty": 2.0}, 1001)
    values = dict(zip(drawn.lengths.tolist(), drawn.values["every row"], strict=True))
    assert drawn.values.keys() == {"every row"}
    assert values[501] == 0
    assert values[1] == values[1001] == -2.0


def test_methods_that_use_correctness_have_two_curves() -> None:
    drawn = curves("kimi_length_reward", {}, 101)
    np.testing.assert_allclose(drawn.values["right"], np.linspace(0.5, -0.5, 101))
    np.testing.assert_allclose(drawn.values["wrong"], np.minimum(drawn.values["right"], 0))


def test_methods_that_use_truncation_only_have_a_curve_of_truncated_rows() -> None:
    drawn = curves("stop_properly_penalty", {"coef": 0.25}, 50)
    assert set(drawn.values["finished"]) == {1.0}
    assert set(drawn.values["truncated"]) == {0.25}


@pytest.mark.parametrize(
    "name", sorted(n for n, m in METHODS.items() if m.kind not in ("measure", "per_token"))
)
def test_every_method_with_one_value_per_row_can_be_plotted(name: str) -> None:
    drawn = curves(name, NEEDED.get(name, {}), 512)
    assert all(len(values) == len(drawn.lengths) for values in drawn.values.values())
    lines = as_text(drawn).splitlines()
    assert len(lines) == HEIGHT + 4
    assert any("●" in line for line in lines)


def test_a_png_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--out .*nowhere.*No such file"):
        as_picture(curves("gr3", {}, 100), tmp_path / "nowhere" / "x.png")
