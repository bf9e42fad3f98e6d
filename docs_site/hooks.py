"""Hooks of mkdocs: pages of repository files, no remote assets, and `llms.txt`.

- A link from a page to a file outside `docs/` leads to a page that shows the file, so that the same
  link works in the repository and on the site.
- A page that loads something from another host is an error.
- `llms.txt` (https://llmstxt.org) lists every page with its first sentence; each page is also
  written as Markdown beside its HTML.

mkdocs is imported where it is used, so that `tests/docs` can test the rest without it.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

LANGUAGES = {".py": "python", ".sh": "sh", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}
"""Languages of code, by the suffix of its file; another file is shown as plain text."""

IN_NAVIGATION = ("CHANGELOG.md", "CONTRIBUTING.md")
"""Files outside `docs/` that `mkdocs.yml` lists as pages."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_REMOTE = re.compile(
    r"""<(?:script|img|iframe|link(?! rel="(?:canonical|prev|next)"))[^>]*(?:src|href)=["']?https?:[^>]*>"""
)
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")

_repository_paths: dict[str, str] = {}
"""Repository paths of the pages that show a file outside `docs/`, by page."""

_pages: dict[str, str] = {}
"""Markdown of the pages, by page."""

_navigation: list[Any] = []
"""The sections and pages, in the order of the site."""


def on_config(config: Any) -> Any:
    """Show the list of versions in what `mike deploy` builds; elsewhere there is none to load."""
    if "MIKE_DOCS_VERSION" in os.environ:
        config.extra["version"] = {"provider": "mike"}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file outside `docs/` that a page, or such a page, links to."""
    from mkdocs.structure.files import File, InclusionLevel

    _repository_paths.clear()
    _pages.clear()
    texts = {
        f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()
    } | dict.fromkeys(IN_NAVIGATION, "")
    waiting = list(texts)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            page = page_of(path)
            texts[path] = shown(path)
            _repository_paths[page] = path
            in_nav = path in IN_NAVIGATION
            level = InclusionLevel.INCLUDED if in_nav else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, page, content=texts[path], inclusion=level))
        for target in links(texts[path]):
            found = repository_file(path, target)
            if (
                found
                and found != "README.md"
                and found not in texts
                and not found.startswith("docs/")
            ):
                texts[found] = ""
                waiting.append(found)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to repository files into links to their pages."""
    uri = page.file.src_uri
    path = _repository_paths.get(uri, f"docs/{uri}")

    def on_site(found: re.Match[str]) -> str:
        target, hash_mark, anchor = found[2].partition("#")
        file = repository_file(path, target)
        if file is None:
            return found[0]
        relative = posixpath.relpath(page_of(file), posixpath.dirname(uri) or ".")
        return f"{found[1]}{relative}{hash_mark}{anchor}{found[3]}"

    _pages[uri] = "".join(
        _LINK.sub(on_site, line) if is_text else line for is_text, line in lines(markdown)
    )
    return _pages[uri]


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Refuse a page that loads something from another host: the site opens offline.

    Raises:
        PluginError: it does.
    """
    from mkdocs.exceptions import PluginError

    if found := remote_asset(output):
        raise PluginError(f"{page.file.src_uri}: loads from another host: {found}")


def on_nav(nav: Any, **_: Any) -> None:
    """Keep the navigation, whose order is that of `llms.txt`."""
    _navigation[:] = nav.items


def on_post_build(config: Any) -> None:
    """Write `llms.txt`, and each page as Markdown."""
    site = Path(config.site_dir)
    for uri, markdown in _pages.items():
        (site / uri).parent.mkdir(parents=True, exist_ok=True)
        (site / uri).write_text(markdown, encoding="utf-8")
    listed = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for item in _navigation:
        listed += ["", f"## {item.title}", ""]
        for page in [item] if item.is_page else item.children:
            about = first_sentence(_pages[page.file.src_uri])
            listed.append(f"- [{page.title}]({page.file.src_uri}): {about}")
    (site / "llms.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")


def remote_asset(html: str) -> str | None:
    """Return the first element of a page that loads something from another host."""
    found = _REMOTE.search(html)
    return found[0] if found else None


def lines(markdown: str) -> Iterator[tuple[bool, str]]:
    """Give each line, and whether it is text, not code in a fence."""
    fence = ""
    for line in markdown.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            fence = ""
        else:
            yield not fence, line
            continue
        yield False, line


def links(markdown: str) -> list[str]:
    """Give the targets of the links, without their anchors."""
    found = [_LINK.findall(line) for is_text, line in lines(markdown) if is_text]
    return [target.partition("#")[0] for row in found for _, target, _ in row]


def repository_file(path: str, target: str) -> str | None:
    """Return the repository path of the file that a link leads to; None for another link."""
    if not target or ":" in target or target.startswith("/"):
        return None
    file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if (ROOT / file).is_dir():
        file = posixpath.join(file, "README.md")
    return file if (ROOT / file).is_file() else None


def page_of(path: str) -> str:
    """Return the page of the site that shows a repository file."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "index.md"
    return path if path.endswith(".md") else f"{path}.md"


def shown(path: str) -> str:
    """Return the Markdown of a page that shows a repository file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"# {path}\n\n`````{language}\n{text}`````\n"


def first_sentence(markdown: str) -> str:
    """Return the first sentence of a page's text, on one line."""
    blocks = "".join(line for is_text, line in lines(markdown) if is_text).split("\n\n")
    for block in blocks:
        text = " ".join(block.split())
        if text and text[0] not in "#|<-!>:*" and not text.startswith("Code: "):
            return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).split(". ")[0].rstrip(".:") + "."
    return ""
