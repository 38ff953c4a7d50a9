"""Whether a factory keeps the promises of this library: for authors of their own."""

from collections.abc import Callable
from typing import Any

from torch import nn

from ..factories.base import OPTIMIZER_BUILDER_REGISTRY
from .checks import CHECKS
from .harness import Harness


class ConformanceError(AssertionError):
    """A factory that breaks a promise. The message has a line for each."""


def check_factory(factory: Any, module: Callable[[], nn.Module] | None = None) -> None:
    """Build and drive optimizers of `factory` in every way that is known to have broken a schedule inside.

    factory: a factory, or a key of the registry. module: makes a small module that the optimizer can train,
    from inputs (N, 4); left out, two linear layers. Raises ConformanceError that lists what fails.
    """
    made = OPTIMIZER_BUILDER_REGISTRY[factory]() if isinstance(factory, str) else factory
    bench = Harness(made, module)
    problems = []
    for check in CHECKS:
        try:
            check(bench)
        except Exception as error:  # a factory of anyone's may raise anything
            problems.append(f"{check.__name__.replace('_', ' ')}: {type(error).__name__}: {error}")
    if problems:
        raise ConformanceError("\n".join(problems))
