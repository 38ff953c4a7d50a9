"""The promises as tests of one's own factory, each factory with each promise:

    INNERSTEP_FACTORIES="my_key my_package.module.MyFactory" pytest --pyargs optimizer.conformance_suite

A name is a key or the dotted path of a factory's class, which is made without arguments; or of a factory.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..factories.base import OPTIMIZER_BUILDER_REGISTRY
from .checks import CHECKS
from .harness import Harness


def pytest_generate_tests(metafunc: Any) -> None:
    """Ask pytest for a test of every promise with every factory. Raises ValueError if none is named."""
    names = os.environ.get("INNERSTEP_FACTORIES", "").split()
    if not names:
        raise ValueError("INNERSTEP_FACTORIES: must name the factories to test: keys, or dotted paths")
    pairs = [(_factory(name), check) for name in names for check in CHECKS]
    ids = [f"{name}-{check.__name__}" for name in names for check in CHECKS]
    metafunc.parametrize(("factory", "check"), pairs, ids=ids)


def test_promise(factory: Any, check: Callable[[Harness], None]) -> None:
    """Fails with what was seen instead."""
    check(Harness(factory))


def _factory(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    found: Any = getattr(import_module(module), attribute) if module else OPTIMIZER_BUILDER_REGISTRY[name]
    return found() if isinstance(found, type) else found
