"""Names of environment variables in a configuration; refuses API keys pasted in their place."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from oyer.protocol.errors import InvalidConfig

_MAX_CHARS = 80
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9]{0,8}|[A-Za-z]{0,20}[0-9]{0,4}")
"""A part of a name between two `_`: short, or letters followed by a few digits."""

_PROBLEM = (
    "must be the *name* of an environment variable, e.g. DEEPSEEK_API_KEY, never a key itself; the"
    " value does not look like a name"
)


def is_name(text: str) -> bool:
    """Whether a text looks like the name of a variable, rather than a key or a password.

    A name is all upper or all lower case, and its words are short or mostly letters; keys mix
    cases, or letters and digits.
    """
    return (
        len(text) <= _MAX_CHARS
        and bool(_NAME.fullmatch(text))
        and (text.isupper() or text.islower())
        and all(_WORD.fullmatch(word) for word in text.split("_"))
    )


def _checked(text: str) -> str:
    if not is_name(text):
        raise ValueError(_PROBLEM)
    return text


VariableName = Annotated[str, AfterValidator(_checked)]
"""The name of an environment variable that holds a secret; a text that may be a secret is refused."""


def shown(variable: str) -> str:
    """Return a name for messages; a lower-case name may be a password and is not shown."""
    return variable if is_name(variable) and variable.isupper() else "the variable that it names"


def secret_of(variable: str, environ: Mapping[str, str], *, where: str, fix: str) -> str:
    """Read a secret from the environment.

    Args:
        where: the configuration key or option that names the variable.
        fix: shown in the error if it is not set.

    Raises:
        InvalidConfig: the variable is not set; the message shows nothing that may be a secret.
    """
    if not is_name(variable):
        raise InvalidConfig(f"{where}: {_PROBLEM}")
    secret = environ.get(variable, "")
    if not secret.strip():
        raise InvalidConfig(f"{where}: {shown(variable)} is not set; {fix}")
    return secret
