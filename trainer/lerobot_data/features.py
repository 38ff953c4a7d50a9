"""Features of a data set in LeRobot's format, as policies see them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from optimizer.config import listed, nearest
from optimizer.types import JsonObject

from ..errors import ConfigError
from ..interfaces.features import FeatureType
from .meta import Meta

_TEXT = ("string", "language")


def is_camera(info: JsonObject) -> bool:
    """Return whether a feature, as in info.json, consists of frames."""
    return info["dtype"] in ("video", "image")


def is_text(info: JsonObject) -> bool:
    """Return whether a feature, as in info.json, consists of words."""
    return info["dtype"] in _TEXT


def type_of(name: str, info: JsonObject) -> FeatureType | None:
    """Return the role that a feature has for policies, as in LeRobot's `dataset_to_policy_features`.

    Args:
        name: Its name.
        info: As in info.json.

    Returns:
        The role; None: it is the data set's own (`index`, `timestamp` and so on).
    """
    if is_camera(info):
        return FeatureType.VISUAL
    if is_text(info):
        return FeatureType.LANGUAGE
    if name == "observation.environment_state":
        return FeatureType.ENV
    if name.startswith("observation"):
        return FeatureType.STATE
    if name.startswith("action"):
        return FeatureType.ACTION
    return FeatureType.REWARD if name == "next.reward" else None


def value_shape(name: str, info: JsonObject) -> tuple[int, ...]:
    """Return the shape of one frame of a feature in a batch.

    LeRobot drops the dimension of a feature with a single number. States and actions keep it here: a policy for one
    joint needs it.
    """
    shape = tuple(info["shape"])
    return shape if shape != (1,) or name.startswith(("observation", "action")) else ()


def chosen_features(meta: Meta, names: Sequence[str] | None, path: str) -> dict[str, JsonObject]:
    """Return the features to load, as in info.json: those in `names`, or all that a batch can hold.

    Args:
        meta: The data set's.
        names: The names; None: all.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: A name is not there, or the feature cannot be loaded.
    """
    if names is None:
        names = [name for name, info in meta.features.items() if not is_text(info)]
    for name in names:
        check_name(name, meta.features, f"{path}.features")
        info = meta.features[name]
        if is_text(info):
            raise ConfigError(
                f"{path}.features: {name!r} consists of words, which a batch cannot hold."
                " The texts of the tasks are in the data's statistics['tasks'], by task_index."
            )
        details = info.get("info") or {}
        if details.get("is_depth_map") or details.get("video.is_depth_map"):
            others = [other for other in names if other != name]
            raise ConfigError(f"{path}.features: {name!r} consists of depth maps, which are not read. Give {others}.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{path}.features: must have each name once; it has {listed(twice)} more than once.")
    return {name: meta.features[name] for name in names}


def check_name(name: str, known: Mapping[str, object], path: str) -> None:
    """Check that there is a feature with this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in known:
        raise ConfigError(f"{path}: no feature {name!r}{nearest(name, list(known))} Features: {listed(list(known))}")
