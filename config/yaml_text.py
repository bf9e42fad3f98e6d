"""Reads YAML of configuration files, rubrics and options, without aliases and duplicate keys."""

from typing import Any

import yaml

_MAX_KEY_CHARS = 100
"""How much of a key an error shows, in characters."""


def read_yaml(text: str) -> Any:
    """Read one YAML document.

    Raises:
        ValueError: it is not YAML, uses an alias, or holds a key twice; the message names the
            line and shows no value, which may be a password.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    except yaml.MarkedYAMLError as error:
        # PyYAML's own text quotes the line.
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; it refuses aliases, which a few lines can expand to billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs lack its type
            name = event.anchor[:_MAX_KEY_CHARS]
            problem = f"aliases (`*{name}`) are not supported; write out the value"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a duplicate key: PyYAML silently takes the last value."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if first := lines.get((key.tag, key.value)):
                problem = (
                    f"the key {key.value[:_MAX_KEY_CHARS]!r} is already in line {first};"
                    " keep one of them"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line + 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        try:
            return super().construct_document(node)
        except (ValueError, LookupError, AttributeError, TypeError):
            # Python's own error shows the value.
            raise ValueError(
                "a value does not fit its tag or form, e.g. `!!bool maybe` or the date 2026-13-01"
            ) from None
