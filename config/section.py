"""Base class of every configuration section, and bounds that several sections share."""

from pydantic import BaseModel, ConfigDict

MAX_TIME_S = 30 * 86_400.0
"""Largest time that a key accepts, in seconds; Python's locks limit how long they can wait."""

MAX_USD = 1e6
"""Largest price or budget; amounts are counted in whole nano-dollars and must stay exact."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are immutable."""

    # A wrong value may be a password: an error names the key and never shows its value.
    # `defer_build`: schemas are built at first use, which keeps the import of `oyer.manager` fast.
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True
    )
