"""The docstrings of fields: the text below an attribute in the source of its class."""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def attribute_docstring(cls: type, name: str) -> str | None:
    """Return the text below the attribute `name` in the source of `cls`, or of the base that declares it."""
    return next((docs[name] for base in cls.__mro__ if name in (docs := _attribute_docstrings(base))), None)


@cache
def _attribute_docstrings(cls: type) -> dict[str, str]:
    # Pydantic's use_attribute_docstrings reads the source of every class at import: a third of the import's time.
    if cls in (BaseModel, object) or not inspect.get_annotations(cls):
        return {}
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError):  # made without source, or in a notebook's cell that was deleted
        return {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(statements)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
