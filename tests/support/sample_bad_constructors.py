"""Custom classes whose constructors, annotations or presets fail in every way."""

import sys

import torch
from torch import nn

from trainer import DataSet


class Failing(nn.Module):
    def __init__(self, way: str = "key", label: str = "", note: str | None = None, flag: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.label, self.note, self.flag = label, note, flag
        if way == "key":
            {}["width"]
        elif way == "attribute":
            self.no_such_thing  # noqa: B018
        elif way == "memory":
            torch.empty(2**62)
        elif way == "exit":
            sys.exit(3)
        elif way == "value":
            raise ValueError("the widths do not fit")
        elif way == "number":
            int("twelve")

    def forward(self, x):
        return self.layer(x)


class WithoutSuper(nn.Module):
    def __init__(self) -> None:
        self.layer = nn.Linear(4, 4)


class BadAnnotation(nn.Module):
    def __init__(self, width: "NoSuchType" = 4) -> None:  # noqa: F821
        super().__init__()


class FailingData(DataSet):
    def __init__(self) -> None:
        {}["episodes"]


class FailingFactory:
    def __init__(self, lr: float = 0.1) -> None:
        raise LookupError("no such preset")

    def build(self, params):
        raise NotImplementedError


class FailingBuild:
    def __init__(self, lr: float = 0.1) -> None:
        self.lr = lr

    def build(self, params):
        raise ArithmeticError("no step size")
