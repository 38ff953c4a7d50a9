"""`model.policy.normalization`: modes by type of feature, in place of the policy's own."""

from collections.abc import Mapping
from typing import Any

from optimizer.config import joined, nearest

from ..errors import ConfigError
from .arguments import plain

PATH = "model.policy.normalization"


def with_modes(config: Any, params: Mapping[str, Any], normalization: Mapping[str, str] | None) -> dict[str, Any]:
    """Return `params` with a `normalization_mapping` that has the given modes, and else those of `config`.

    Raises:
        ConfigError: LeRobot knows no such type of feature or mode.
    """
    from lerobot.configs.types import FeatureType, NormalizationMode

    if normalization is None:
        return dict(params)
    for kind, mode in normalization.items():
        _check(kind, [each.value for each in FeatureType], PATH, "type of feature")
        _check(mode, [each.value for each in NormalizationMode], f"{PATH}.{kind}", "mode")
    return {**params, "normalization_mapping": {**plain(config.normalization_mapping), **normalization}}


def _check(name: str, known: list[str], path: str, noun: str) -> None:
    if name not in known:
        raise ConfigError(f"{path}: LeRobot has no {noun} {name!r}{nearest(str(name), known)} It has: {joined(known)}")
