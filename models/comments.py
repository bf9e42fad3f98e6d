"""Descriptions of tables and columns, for readers of the record by SQL.

`migrations.upgrade` writes it into PostgreSQL (`COMMENT ON`), and `make docs` into docs/record.md.
"""

from oyer.models import Base

TABLES = {table.name: table.comment or "" for table in Base.metadata.tables.values()}

COLUMNS = {
    table.name: {column.name: column.comment or "" for column in table.columns}
    for table in Base.metadata.tables.values()
}

JUDGE_HISTORY = "One row per judgement, with its rollout, texts and reward."

HISTORY_COLUMNS = {
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


def history_comments(columns: list[str]) -> dict[str, str]:
    """Return the descriptions of the view's columns, in the view's order."""
    return {name: HISTORY_COLUMNS[name] for name in columns}
