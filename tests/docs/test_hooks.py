"""The hooks of the documentation site: links to repository files, remote assets, first sentences.

`make docs-site` runs them in mkdocs.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

from docs_site import hooks
from tests.support.doc_pages import PAGES, name_of

CODE = "```sh\nls  # [a](b.md)\n```\n"


@pytest.mark.parametrize(
    ("path", "target", "file", "page"),
    [
        ("docs/why.md", "trust.md", "docs/trust.md", "trust.md"),
        ("docs/trainers/trl.md", "../../examples/trl_grpo.py", "examples/trl_grpo.py",
         "examples/trl_grpo.py.md"),
        ("docs/architecture.md", "../CONTRIBUTING.md", "CONTRIBUTING.md", "CONTRIBUTING.md"),
        ("docs/start.md", "../examples", "examples/README.md", "examples/README.md"),
        ("docs/start.md", "../README.md", "README.md", "index.md"),
    ],
)  # fmt: skip
def test_a_link_to_a_file_leads_to_its_page(path: str, target: str, file: str, page: str) -> None:
    assert hooks.repository_file(path, target) == file
    assert hooks.page_of(file) == page


@pytest.mark.parametrize("target", ["", "https://example.org/a.md", "/trust.md", "no_such_page.md"])
def test_another_link_is_left_alone(target: str) -> None:
    assert hooks.repository_file("docs/why.md", target) is None


def test_links_in_code_are_text() -> None:
    assert hooks.links(f"[x](start.md#a)\n{CODE}[y](why.md)\n") == ["start.md", "why.md"]
    assert hooks.links(f"````text\n{CODE}[z](z.md)\n````\n[y](why.md)\n") == ["why.md"]


def test_a_page_links_to_the_pages_of_files_with_their_anchors() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="trainers/trl.md"))
    text = "[a](../../examples/trl_grpo.py#x), [b](index.md#y), [c](#z)\n"
    assert hooks.on_page_markdown(text + CODE, page) == (
        "[a](../examples/trl_grpo.py.md#x), [b](index.md#y), [c](#z)\n" + CODE
    )


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/a.js"></script>',
        "<img alt=x src=http://example.org/a.png>",
        '<link rel="stylesheet" href="https://fonts.example/a.css">',
    ],
)
def test_an_element_that_loads_from_another_host_is_found(html: str) -> None:
    assert hooks.remote_asset(f"<p>{html}</p>")


def test_links_and_local_assets_load_nothing_from_another_host() -> None:
    html = (
        '<a href="https://example.org">x</a><img src="images/a.png">'
        '<link rel="canonical" href="https://docs.example/a.html"><script src="a.js"></script>'
    )
    assert hooks.remote_asset(html) is None


def test_a_file_of_code_is_shown_in_its_language() -> None:
    assert hooks.shown("examples/openrlhf.sh").startswith("# examples/openrlhf.sh\n\n`````sh\n")
    assert hooks.shown("CONTRIBUTING.md").startswith("# Contributing\n")


def test_the_first_sentence_is_that_of_the_text() -> None:
    text = (
        f"# Title\n\n{CODE}\n| a | b |\n\nCode: `x.py`.\n\nScores [a\nrollout](a.md). And so on.\n"
    )
    assert hooks.first_sentence(text) == "Scores a rollout."
    assert hooks.first_sentence("# Title\n") == ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_page_begins_with_a_sentence(page: Path) -> None:
    """`llms.txt` and search results show it; it stands before the first section."""
    before, _, _ = page.read_text().partition("\n## ")
    sentence = hooks.first_sentence(before)
    assert sentence[:1].isupper() or sentence.startswith("`"), sentence
