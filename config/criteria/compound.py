"""Finds criteria that ask for several things at once; pure.

A compound criterion gives a policy credit for a part of it, and its verdict does not say which part
failed (arXiv:2605.12474). The rule is narrow, so that what it names is worth a look: a coordinator
before a second verb, or a Chinese word that joins clauses. Nouns that are joined (`salt and pepper`)
are left alone.
"""

import re

from oyer.config import rubric
from oyer.config.judge import JudgeConfig

_VERBS = (
    "is are was were has have does do did can should must will answers asks avoids calls cites contains"
    " defines describes ends explains follows gives identifies includes lists mentions names notes"
    " provides recommends refers refuses returns shows starts states suggests tells uses warns"
)
_JOINED = re.compile(
    rf"\b(?:and|as well as)(?: also| then| it| they| never| always)? (?:{'|'.join(_VERBS.split())})\b"
    r"|并且|而且|以及|同时(?!间)",
    re.IGNORECASE,
)


def compound_criteria(judge: JudgeConfig) -> dict[str, str]:
    """Return what joins two requirements in a criterion's text, by name; built-in rubrics are left out."""
    if not judge.criteria and any(judge.rubric == rubric.resolve(name) for name in rubric.BUILT_IN):
        return {}
    found = {one.name: _JOINED.search(one.text) for one in judge.own_criteria}
    return {name: match.group() for name, match in found.items() if match}
