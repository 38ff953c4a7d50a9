"""The kinds of value that fields of a config take are found once a class, and again while a type is unknown."""

from typing import ForwardRef

from pydantic import BaseModel

from trainer.config import kinds
from trainer.config.kinds import kinds_inside


class Part(BaseModel):
    width: int | str = 3
    inner: "Inner | None" = None


class Inner(BaseModel):
    depth: int = 1


def test_a_type_that_is_defined_later_is_found():
    assert [type(kind) for kind in kinds_inside(Part, "inner", None)] == [ForwardRef]
    Part.model_rebuild()
    assert [*kinds_inside(Part, "inner", None)] == [Inner, type(None)]


def test_the_fields_of_a_class_are_looked_through_once(monkeypatch):
    class Net(BaseModel):
        width: int | str = 3
        depth: float = 1.0

    assert [*kinds_inside(Net, "width", None)] == [int, str]
    monkeypatch.setattr(kinds, "allowed_kinds", None)
    assert [*kinds_inside(Net, "depth", None)] == [float]
    assert [*kinds_inside(Net, "height", None)] == []
