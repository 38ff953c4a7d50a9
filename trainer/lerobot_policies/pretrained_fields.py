"""Fields of LeRobot's configs that name pretrained weights: they are not loaded where others replace them all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..interfaces.component import do_weights_follow

_NONE: Mapping[str, object] = {"pretrained_backbone_weights": None}
"""The value of each field that loads nothing. The module is the same otherwise."""


@contextmanager
def without_useless_downloads(config: Any) -> Iterator[None]:
    """Run the body, which builds a policy of `config`, without the pretrained weights if others follow.

    Args:
        config: LeRobot's config object. It has its own values again afterwards.
    """
    own = {name: getattr(config, name) for name in _NONE if do_weights_follow() and hasattr(config, name)}
    try:
        for name in own:
            setattr(config, name, _NONE[name])
        yield
    finally:
        for name, value in own.items():
            setattr(config, name, value)
