"""Says whether a response holds anything to judge; pure."""


def has_content(response: str) -> bool:
    """Whether there is anything to judge."""
    return any(char.isalnum() for char in response)
