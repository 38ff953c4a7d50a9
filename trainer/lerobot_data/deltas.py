"""Distances in time: which frames before and after a sample's own its batch holds."""

from collections.abc import Collection, Mapping, Sequence

from optimizer.types import JsonObject

from ..errors import ConfigError
from ..interfaces.features import FeatureType
from .features import check_name, type_of

_TOLERANCE_SECONDS = 1e-4
"""LeRobot's: a distance may be so far from a whole number of frames."""
_OBSERVATIONS = (FeatureType.VISUAL, FeatureType.STATE, FeatureType.ENV)


def default_deltas(features: Mapping[str, JsonObject], n_obs_steps: int, chunk: int) -> dict[str, list[int]]:
    """Return the distances in frames by name: of observations up to now, and of actions from now on."""
    deltas: dict[str, list[int]] = {}
    for name, info in features.items():
        if type_of(name, info) in _OBSERVATIONS:
            deltas[name] = list(range(1 - n_obs_steps, 1))
        elif type_of(name, info) is FeatureType.ACTION:
            deltas[name] = list(range(chunk))
    return deltas


def check_steps(
    features: Mapping[str, JsonObject], given: Collection[str], n_obs_steps: int, chunk: int, path: str
) -> None:
    """Check that `n_obs_steps` and `chunk` have an effect, if they are not 1.

    Args:
        features: Whatever is loaded, by name.
        given: The names with an entry in `deltas` or `delta_timestamps`.
        n_obs_steps: Time steps of observations.
        chunk: Time steps of actions.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: There is no feature whose time steps they are.
    """
    ours = {type_of(name, info) for name, info in features.items() if name not in given}
    for parameter, steps, types, words in (
        ("n_obs_steps", n_obs_steps, _OBSERVATIONS, "an observation"),
        ("chunk", chunk, (FeatureType.ACTION,), "an action"),
    ):
        if steps > 1 and not ours.intersection(types):
            raise ConfigError(
                f"{path}.{parameter}: got {steps}, and no feature is {words} that deltas leave out."
                " Leave it out, or give the feature's time steps as deltas."
            )


def in_frames(seconds: Mapping[str, Sequence[float]], fps: float, path: str) -> dict[str, list[int]]:
    """Return distances in seconds, LeRobot's `delta_timestamps`, as distances in frames.

    Args:
        seconds: By name.
        fps: Frames a second.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: A distance is not a whole number of frames.
    """
    for name, distances in seconds.items():
        for distance in distances:
            if abs(distance * fps - round(distance * fps)) / fps > _TOLERANCE_SECONDS:
                raise ConfigError(
                    f"{path}.delta_timestamps.{name}: must be multiples of 1/{fps:g} s, the time of a frame;"
                    f" got {distance}. The nearest one is {round(distance * fps) / fps:g}."
                )
    return {name: [round(distance * fps) for distance in distances] for name, distances in seconds.items()}


def all_deltas(
    defaults: Mapping[str, Sequence[int]],
    frames: Mapping[str, Sequence[int]],
    seconds: Mapping[str, Sequence[float]],
    known: Mapping[str, object],
    fps: float,
    path: str,
) -> dict[str, Sequence[int]]:
    """Return the distances in frames by name; those that a config gives replace the defaults.

    Args:
        defaults: By name.
        frames: The parameter `deltas`.
        seconds: The parameter `delta_timestamps`.
        known: Whatever is loaded, by name.
        fps: Frames a second.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: A name is not loaded, stands in both parameters, or a time is not a whole number of frames.
    """
    for parameter, given in (("deltas", frames), ("delta_timestamps", seconds)):
        for name in given:
            check_name(name, known, f"{path}.{parameter}")
    if both := sorted(frames.keys() & seconds.keys()):
        raise ConfigError(f"{path}.delta_timestamps: {both[0]!r} is in deltas too. Give one of the two.")
    return {**defaults, **frames, **in_frames(seconds, fps, path)}
