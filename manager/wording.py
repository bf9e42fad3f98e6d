"""How an error shows what was handed over, whatever it is; pure."""

_SHOWN_CHARS = 80
"""How much of a value a message shows, in characters."""


def shown(value: object) -> str:
    """Show a value in a message: short, and also if its own `repr` fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - anything may be handed over, whole numbers too long to write
        # out and objects that cannot be shown among it; the message is about the field.
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def is_text(value: object) -> bool:
    """Whether a value is text that UTF-8 can say: half a surrogate pair is not."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
