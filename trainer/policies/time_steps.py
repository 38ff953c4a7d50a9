"""The time steps of a policy's features: those of the observations that it sees, and of the actions that it predicts.

Time steps are distances in frames from the sample's own; to act, from now. A frame of the data is a step of the robot.
"""

from collections.abc import Mapping, Sequence

from optimizer.config import listed

from ..errors import ConfigError

Deltas = Mapping[str, Sequence[int]]
"""The time steps of features in a sample, by name, as in `DataSet.deltas`."""


def observation_steps(name: str, number: int, deltas: Deltas) -> list[int]:
    """Return the time steps of an input, of which none is after now.

    Args:
        name: The input.
        number: How many time steps a sample has of it.
        deltas: The data set's. A feature that is not in them ends now.

    Raises:
        ConfigError: The policy would see the future, or the data set contradicts its samples.
    """
    steps = _known(name, number, deltas) or list(range(1 - number, 1))
    if max(steps) > 0:
        raise ConfigError(
            f"data: the time steps of {name!r}, which the policy reads, must not be after the sample's own, 0: a policy"
            f" that acts does not have them yet; got {listed(steps, 8)}"
        )
    return steps


def first_action_step(name: str, number: int, deltas: Deltas) -> int:
    """Return the time step of the first action in a sample, 0 or less; the others follow one by one.

    Args:
        name: The action.
        number: How many actions a sample has.
        deltas: The data set's. If the action is not in them, it begins now.

    Raises:
        ConfigError: A policy could not carry out such actions, or the data set contradicts its samples.
    """
    steps = _known(name, number, deltas) or list(range(number))
    if steps != list(range(steps[0], steps[0] + number)) or 0 not in steps:
        raise ConfigError(
            f"data: the time steps of {name!r}, which the policy predicts, must follow one another and have the"
            f" sample's own, 0, as in -1, 0, 1, 2: they are carried out one by one from 0 on; got {listed(steps, 8)}"
        )
    return steps[0]


def _known(name: str, number: int, deltas: Deltas) -> list[int]:
    """Return the time steps of a feature by the data set; empty: it gives none. Raises ConfigError."""
    steps = list(deltas.get(name, ()))
    if steps and len(steps) != number:
        raise ConfigError(
            f"data: the deltas of {name!r} are {len(steps)} time steps ({listed(steps, 8)}); a sample has {number}"
        )
    return steps
