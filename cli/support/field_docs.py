"""Reads the docstrings of a model's fields on demand.

Pydantic can read them when it builds a class (`use_attribute_docstrings`), but then every import of
the configuration parses its source.
"""

import ast
import inspect
import textwrap

from pydantic import BaseModel


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings of the fields of a model and its bases, by field name."""
    docs: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(found, ast.ClassDef)
        for field, text in zip(found.body, found.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match text:
                    case ast.Expr(value=ast.Constant(value=str() as doc)):
                        docs[field.target.id] = inspect.cleandoc(doc)
    return {name: docs[name] for name in model.model_fields if name in docs}
