"""Descriptions of tables and columns, for readers of the record by SQL.

`migrations.upgrade` writes it into PostgreSQL (`COMMENT ON`), and `make docs` into docs/record.md.
"""

from oyer.models import Base

TABLES = {table.name: table.comment or "" for table in Base.metadata.tables.values()}

COLUMNS = {
    table.name: {column.name: column.comment or "" for column in table.columns}
    for table in Base.metadata.tables.values()
}

VIEWS = {
    "judge_history": "One row per judgement, with its rollout, texts and reward.",
    "criterion_history": "One row per criterion of a judgement, with its run, step and group.",
}

_JUDGE_HISTORY = {
    **COLUMNS["rewards"],
    **COLUMNS["rollouts"],
    **COLUMNS["judgements"],
    "run": "Name of the run.",
    "step": COLUMNS["batches"]["step"],
    "prompt": "The prompt; chat messages as JSON.",
    "response": "The response that was judged: text, or messages as JSON.",
    "reference": "The reference answer; NULL if there is none.",
    "prompt_tokens": "Prompt tokens of the judge's requests for this judgement.",
    "completion_tokens": "Completion tokens of the judge's replies for this judgement.",
    "cost_usd": (
        "Cost of this judgement in US dollars, without the cost of an unscored judgement that it"
        " replaced; `attempts` has both."
    ),
    "split": "Purpose of the rollout: `batches.split`, or the key `split` of its metadata.",
    "scale_low": "Lowest score of the judge's scale.",
    "scale_high": "Highest score of the judge's scale.",
    "rubric": "Name of the rubric.",
    "tools": "Definitions of the tools that the policy could call (JSON); NULL if none.",
}
"""Descriptions by name; the view has some of these columns."""


_CRITERION_HISTORY = {
    **{name: _JUDGE_HISTORY[name] for name in ("run", "step", "group_id")},
    **{name: COLUMNS["judgements"][name] for name in ("status", "score", "model", "source")},
    **COLUMNS["criteria"],
}


def view_comments(view: str, columns: list[str]) -> dict[str, str]:
    """Return the descriptions of a view's columns, in the view's order."""
    known = {"judge_history": _JUDGE_HISTORY, "criterion_history": _CRITERION_HISTORY}[view]
    return {name: known[name] for name in columns}
