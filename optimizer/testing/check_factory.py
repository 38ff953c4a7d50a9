"""`check_factory`: whether an optimizer that a factory builds passes all checks of the library."""

from collections.abc import Callable

from torch import nn

from ..factories.base import OPTIMIZER_BUILDER_REGISTRY, OptimizerFactory
from .checks import CHECKS
from .harness import Harness


class ConformanceError(AssertionError):
    """A factory whose optimizers fail checks. The message has a line for each."""


def check_factory(factory: OptimizerFactory | str, module: Callable[[], nn.Module] | None = None) -> None:
    """Build and use optimizers of `factory` in every way that is known to have broken a schedule inside.

    Args:
        factory: A factory, or a key of the registry.
        module: Makes a small module that the optimizer can train, with inputs of shape (N, 4). If omitted, the module
            has two linear layers.

    Raises:
        ConformanceError: A check failed. The message has a line for each that did.
    """
    harness = Harness(OPTIMIZER_BUILDER_REGISTRY[factory]() if isinstance(factory, str) else factory, module)
    problems = []
    for check in CHECKS:
        try:
            check(harness)
        except Exception as error:  # a custom factory may raise anything
            problems.append(f"{check.__name__.replace('_', ' ')}: {type(error).__name__}: {error}")
    if problems:
        raise ConformanceError("\n".join(problems))
