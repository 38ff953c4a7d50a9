"""Observations of gymnasium's environments under the names of LeRobot's features."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from optimizer.config import nearest

from ..errors import ConfigError
from ..interfaces.dataset import Batch
from ..interfaces.features import Feature, FeatureType

if TYPE_CHECKING:
    from gymnasium import Space

IMAGE, STATE, ENVIRONMENT_STATE = "observation.image", "observation.state", "observation.environment_state"
_NAMES = {"pixels": IMAGE, "agent_pos": STATE, "environment_state": ENVIRONMENT_STATE}
"""LeRobot's names of features, by the key in an environment's observation."""
_CHANNELS = (1, 3, 4)
_WHOLE = ""
"""The path of an observation that is one array."""


class ObservationMap:
    """Which array of an observation is which feature.

    An array is named by its path in the observation: keys joined by `.`.

    Args:
        space: The observation space of one environment.
        names: Features by the path of their array, in place of LeRobot's names.
        where: The environment in messages.

    Raises:
        ConfigError: `names` has a path that is not there, or of a space that is not a Box; or two paths have one name.
    """

    def __init__(self, space: "Space[Any]", names: Mapping[str, str], where: str) -> None:
        found = {".".join(keys): (keys, box) for keys, box in _arrays(space)}
        arrays = {path: box for path, (_, box) in found.items()}
        for path in names:
            if path not in arrays:
                known = ", ".join(filter(None, arrays)) or "one array, and no names"
                raise ConfigError(
                    f"train.evaluation.params.observation: {where} has no {path!r} in its observations"
                    f"{nearest(path, list(arrays))} It has: {known}"
                )
        chosen = {path: names.get(path, _default_name(path, box)) for path, box in arrays.items()}
        self._paths: dict[str, str] = {}
        for path, name in chosen.items():
            if name is not None and name in self._paths:
                raise ConfigError(
                    f"train.evaluation.params.observation: {path!r} and {self._paths[name]!r} of {where} must have"
                    f" different names; got {name!r} for both"
                )
            if name is not None:
                self._paths[name] = path
        self._keys = {name: found[path][0] for name, path in self._paths.items()}
        self._images = {name for name, path in self._paths.items() if _is_image(arrays[path])}
        self._channels_last = {name for name in self._images if _shape(arrays[self._paths[name]])[-1] in _CHANNELS}
        self.features = {name: self._feature(name, arrays[path]) for name, path in self._paths.items()}
        """The features, by name."""

    def batch(self, observation: Any, count: int) -> Batch:
        """Return the features of the first `count` of a vector environment's observations: uint8 frames, float32."""
        return {name: torch.from_numpy(self._values(name, observation)[:count].copy()) for name in self._paths}

    def vector(self, name: str, observation: Any) -> NDArray[Any]:
        """Return a feature of one environment's observation, as the environment gives it."""
        return np.asarray(_at(observation, self._keys[name]))

    def _values(self, name: str, observation: Any) -> NDArray[Any]:
        values = np.asarray(_at(observation, self._keys[name]))
        if name not in self._images:
            return values.astype(np.float32)
        return np.moveaxis(values, -1, -3) if name in self._channels_last else values

    def _feature(self, name: str, box: "Space[Any]") -> Feature:
        shape = _shape(box)
        if name in self._images:
            return Feature(FeatureType.VISUAL, (shape[2], *shape[:2]) if name in self._channels_last else shape)
        return Feature(FeatureType.ENV if name == ENVIRONMENT_STATE else FeatureType.STATE, shape)


def _arrays(space: "Space[Any]", keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Space[Any]"]]:
    """Yield each Box in a space with the keys that lead to it."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _arrays(inner, (*keys, key))
    elif isinstance(space, spaces.Box):
        yield keys, space


def _default_name(path: str, box: "Space[Any]") -> str | None:
    if path == _WHOLE:
        return IMAGE if _is_image(box) else STATE
    camera = path.removeprefix("pixels.")
    return f"observation.images.{camera}" if camera != path else _NAMES.get(path)


def _shape(box: "Space[Any]") -> tuple[int, ...]:
    return tuple(box.shape or ())


def _is_image(box: "Space[Any]") -> bool:
    shape = _shape(box)
    return box.dtype == np.uint8 and len(shape) == 3 and (shape[-1] in _CHANNELS or shape[0] in _CHANNELS)


def _at(observation: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        observation = observation[key]
    return observation
