"""The checks as tests, each factory with each check:

    INNERSTEP_FACTORIES="my_key my_package.module.MyFactory" pytest --pyargs optimizer.conformance_suite

A name is a key or the dotted path of a factory's class, which is made without arguments; or of a factory.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from ..factories.base import OPTIMIZER_BUILDER_REGISTRY, OptimizerFactory
from .checks import CHECKS
from .harness import Harness


class Metafunc(Protocol):
    """The part of pytest's Metafunc that is used here: pytest is not a dependency of the library."""

    def parametrize(
        self, argnames: Sequence[str], argvalues: Sequence[tuple[object, ...]], *, ids: Sequence[str]
    ) -> None:
        """Call the test with each of `argvalues`."""


def pytest_generate_tests(metafunc: Metafunc) -> None:
    """Let pytest make a test of every check with every factory.

    Raises:
        ValueError: No factory is named.
    """
    names = os.environ.get("INNERSTEP_FACTORIES", "").split()
    if not names:
        raise ValueError("INNERSTEP_FACTORIES: must name the factories to test: keys, or dotted paths")
    pairs = [(_factory(name), check) for name in names for check in CHECKS]
    ids = [f"{name}-{check.__name__}" for name in names for check in CHECKS]
    metafunc.parametrize(("factory", "check"), pairs, ids=ids)


def test_check(factory: OptimizerFactory, check: Callable[[Harness], None]) -> None:
    """Fails with the value that was found in place of the expected one."""
    check(Harness(factory))


def _factory(name: str) -> OptimizerFactory:
    module, _, attribute = name.rpartition(".")
    found: object = getattr(import_module(module), attribute) if module else OPTIMIZER_BUILDER_REGISTRY[name]
    return cast(OptimizerFactory, found() if isinstance(found, type) else found)  # the checks fail if it is not one
