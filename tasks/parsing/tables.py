"""Finds the total of a Markdown table: the overall row in the column of scores."""

import re
from collections.abc import Iterator

from oyer.tasks.parsing.candidates import Candidate, Rank
from oyer.tasks.parsing.labels import bare_value
from oyer.tasks.parsing.numbers import names_other_scale
from oyer.tasks.parsing.vocabulary import any_of

_MARKUP = r"[\s*_#(]*"
_SCORE_COLUMN = re.compile(
    rf"{_MARKUP}(?:{any_of('最终, 实际')})?{any_of('score, rating, points, grade, 得分, 评分, 分数, 打分')}(?![a-z])(?P<note>.*)",
    re.IGNORECASE,
)
_MAXIMUM_COLUMN = re.compile(
    rf"{_MARKUP}{any_of('max, maximum, out of, possible, full, 满分, 总分, 分值')}", re.IGNORECASE
)
_WHOLE = re.compile(
    rf"{_MARKUP}(?:(?:加权|weighted\s+)?{any_of('final, overall, total, 总分, 总计, 合计, 总评, 总体, 综合, 最终')})"
    rf"(?:\s*{any_of('score, rating, grade, 评分, 得分, 评价')})?[\s*_:)]*",
    re.IGNORECASE,
)


def table_candidates(
    lines: list[tuple[int, str]], scale: tuple[float, float]
) -> Iterator[Candidate]:
    """Find the totals of tables with one column of scores.

    Args:
        lines: where each line starts in the reply, and its normalised text.
        scale: lowest and highest score; a column of maxima must hold the highest in that row.
    """
    header: list[str] = []
    for i, (start, line) in enumerate(lines):
        if not line.lstrip().startswith("|"):
            header = []
        elif not header:
            below = lines[i + 1][1] if i + 1 < len(lines) else ""
            header = _cells(line) if "-" in below and not below.strip(" \t|:-") else []
        elif _WHOLE.fullmatch((cells := _cells(line))[0]) or _is_only_row(lines, i, header):
            value = _total(header, cells, scale)
            if value is not None:
                yield Candidate(start, line.strip(), value[0], Rank.FINAL, "table")


def _is_only_row(lines: list[tuple[int, str]], i: int, header: list[str]) -> bool:
    """Whether a table has one row, and the score in its first column: `| Score | Reason |`."""
    below = lines[i + 1][1] if i + 1 < len(lines) else ""
    above = lines[i - 1][1]
    first = bool(header) and bool(_SCORE_COLUMN.match(header[0]))
    return first and not below.lstrip().startswith("|") and not above.strip(" \t|:-")


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _total(
    header: list[str], cells: list[str], scale: tuple[float, float]
) -> tuple[float | None] | None:
    """Return `(total,)`, `(None,)` if it is unreliable, or None without a column of scores."""
    columns = [(i, name) for i, cell in enumerate(header) if (name := _SCORE_COLUMN.match(cell))]
    if len(columns) != 1 or len(cells) != len(header):
        return None
    column, name = columns[0]
    value = bare_value(cells[column], scale)
    if value is None:
        return None
    maxima = [
        bare_value(cells[i], scale) for i, cell in enumerate(header) if _MAXIMUM_COLUMN.match(cell)
    ]
    if any(maximum and maximum.number != scale[1] for maximum in maxima):
        return (None,)
    return (None if names_other_scale(name["note"], scale) else value.number,)
