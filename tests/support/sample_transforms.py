"""Transforms of frames, right ones and wrong ones."""

import random

import torch


class Brightness:
    """Multiplies a sample by one random number."""

    def __init__(self, low: float = 0.5, high: float = 1.5) -> None:
        if low > high:
            raise ValueError(f"low must be <= high; got {low} and {high}")
        self.low, self.high = low, high

    def __call__(self, frames):
        return frames * torch.empty(()).uniform_(self.low, self.high)


class Shift:
    """Adds a random number of Python's."""

    def __call__(self, frames):
        return frames + random.random()


class Crop:
    def __call__(self, frames):
        return frames[..., 1:]


class Double:
    def __call__(self, frames):
        return frames.double()


class Nothing:
    def __call__(self, frames):
        pass


class Failing:
    def __call__(self, frames):
        raise RuntimeError("no such kernel")


class Unbuilt:
    def __init__(self) -> None:
        raise RuntimeError("no weights")

    def __call__(self, frames):
        return frames


class NotCallable:
    pass


def function(frames, factor=1.0):
    return frames * factor
