"""The pages of the documentation, and the code blocks in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("*.md"))]

_FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
_SEPARATORS = "|&;<>\n"


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.language}:{self.number}"


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(language: str) -> list[Block]:
    """Give the code blocks of all pages in one language."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def blocks_of(page: Path) -> list[Block]:
    """Give the code blocks of a page."""
    found = enumerate(_FENCE.finditer(page.read_text()), start=1)
    return [Block(name_of(page), number, one[2], one[3]) for number, one in found]


def without_blocks(page: Path) -> str:
    """Return a page's text without its code blocks."""
    return _FENCE.sub("", page.read_text())


def commands(program: str) -> list[str]:
    """Give the arguments of each call of a program, in code blocks and in text, each once."""
    lines = [line for block in blocks("sh") for line in _lines(block.text)]
    spans = [line for page in PAGES for found in _spans(page, program) for line in _lines(found)]
    typed = [line for line in lines + spans if line.startswith(f"{program} ")]
    return list(dict.fromkeys(line.removeprefix(program).strip() for line in typed))


def _lines(script: str) -> Iterator[str]:
    """Give each command of a script, without its redirections and variables."""
    script = re.sub(r"(^|\s)#.*$", r"\1", script.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(script + "\n", posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
    words: list[str] = []
    redirected = False
    for word in lexer:
        if word[0] not in _SEPARATORS:
            if not redirected:
                words.append(word)
            continue
        redirected = word in ("<", ">", ">>")
        if redirected:
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            yield shlex.join(words)
        words = []


def _spans(page: Path, program: str) -> list[str]:
    found = re.findall(rf"`({program} [a-z][^`]*)`", without_blocks(page))
    return [" ".join(span.split()) for span in found]
