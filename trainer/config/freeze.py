"""The type of `freeze`: true, false, or names of submodules and parameters."""

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from optimizer.config import shown


def _refuse_text(value: object) -> object:
    if isinstance(value, str):
        rule = f"must be true, false or a list of names: write [{shown(value)}]"
        raise PydanticCustomError("rule", "{message}", {"message": rule})
    return value


Freeze = Annotated[bool | list[str], BeforeValidator(_refuse_text)]
"""Whether all of a component is frozen, or the names of submodules and parameters that are, with `*`."""
