"""Evaluates `calculate_output` of a multi grader: arithmetic over the scores of its graders."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from oyer.protocol.errors import InvalidInput

MAX_CHARS = 2000
"""Longest formula."""

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
"""The functions of OpenAI's guide to graders."""


def names_in(formula: str) -> set[str]:
    """Return the names of scores in a formula.

    Raises:
        InvalidInput: it is not a formula.
    """
    nodes = ast.walk(_parsed(formula))
    return {node.id for node in nodes if isinstance(node, ast.Name)} - _FUNCTIONS.keys()


def evaluate(formula: str, scores: Mapping[str, float]) -> float:
    """Evaluate a formula.

    Raises:
        InvalidInput: it is not a formula over `scores`, or has no finite value.
    """
    try:
        value = float(_value(_parsed(formula).body, scores))
    except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"grader.calculate_output: {error}; change the formula") from error
    if not math.isfinite(value):
        raise InvalidInput("grader.calculate_output: has no finite value; change the formula")
    return value


def _parsed(formula: str) -> ast.Expression:
    try:
        if len(formula) > MAX_CHARS:
            raise ValueError(f"is longer than {MAX_CHARS} characters")
        return ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInput(f"grader.calculate_output: {error}; give a formula") from error


def _value(node: ast.AST, scores: Mapping[str, float]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in scores:
            raise InvalidInput(
                f"grader.calculate_output: {node.id} is not a grader; name one of {', '.join(scores)}"
            )
        return scores[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, scores), _value(node.right, scores))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand, scores))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        if function is not None:
            return function(*(_value(one, scores) for one in node.args))
    raise InvalidInput(
        "grader.calculate_output: only numbers, names of graders, + - * / **, and"
        f" {', '.join(_FUNCTIONS)} are known"
    )
