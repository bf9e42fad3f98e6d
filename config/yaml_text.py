"""Reads YAML of which no alias makes more than its text could say: configuration, rubrics, options."""

from collections.abc import Iterator
from typing import Any

import yaml

MAX_CHARACTERS = 1_000_000
"""What a text may come to with its aliases written out, each value counted as one more.

Many times a large configuration with its rubrics; a few lines of aliases of aliases come to
billions, which whatever goes through the values one by one never ends with.
"""

_MAX_KEY_CHARS = 100
"""How much a message shows of a key, in characters."""


class KeyTwice(ValueError):
    """A mapping holds a key twice; the message names the key and its lines, and shows no value."""


def read_yaml(text: str) -> Any:
    """Read one YAML document.

    Raises:
        KeyTwice: a key stands twice in one mapping.
        ValueError: it is not YAML, or its aliases come to more than `MAX_CHARACTERS`.
    """
    try:
        return _read(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    except yaml.MarkedYAMLError as error:
        # PyYAML's own text quotes the line, which may hold a password.
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _read(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, max(MAX_CHARACTERS, 2 * len(text)))
        _refuse_key_twice(node)
        return _constructed(loader, node)
    finally:
        loader.dispose()


def _constructed(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_document(node)
    except (ValueError, LookupError, AttributeError, TypeError):
        # What Python raises for a value that does not fit its tag shows the value.
        raise ValueError(
            "a value does not fit its tag or form, e.g. `!!bool maybe` or the date 2026-13-01"
        ) from None


def _check_size(root: yaml.Node, most: int) -> None:
    """Count with aliases written out; each node is gone through once, however often it is named.

    It comes before the values are made: merge keys (`<<`) are written out while they are.
    """
    sizes: dict[yaml.Node, int] = {}
    under_way: list[tuple[yaml.Node, Iterator[yaml.Node]]] = [(root, _inside(root))]
    above = {root}
    while under_way:
        node, left = under_way[-1]
        inner = next(left, None)
        if inner is None:
            under_way.pop()
            above.remove(node)
            own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
            sizes[node] = 1 + own + sum(sizes[each] for each in _inside(node))
            if sizes[node] > most:
                raise ValueError(
                    f"its aliases (`*name`) come to more than {most:,} characters; write out what"
                    " is meant"
                )
        elif inner in above:
            raise ValueError("an alias (`*name`) stands inside of what it names; write out a value")
        elif inner not in sizes:
            under_way.append((inner, _inside(inner)))
            above.add(inner)


def _refuse_key_twice(root: yaml.Node) -> None:
    """PyYAML takes the last of two equal keys; a merge key (`<<`) may still be overridden."""
    left, seen = [root], {root}
    while left:
        node = left.pop()
        if isinstance(node, yaml.MappingNode):
            keys: dict[tuple[str, str], yaml.Node] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                first = keys.get((key.tag, key.value))
                if first is not None:
                    raise KeyTwice(
                        f"line {key.start_mark.line + 1}: the key {key.value[:_MAX_KEY_CHARS]!r}"
                        f" stands in line {first.start_mark.line + 1} already; keep one of them"
                    )
                keys[key.tag, key.value] = key
        for inner in _inside(node):
            if inner not in seen:
                seen.add(inner)
                left.append(inner)


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
