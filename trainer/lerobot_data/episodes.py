"""The choice of episodes: which are loaded, and which of them are held out."""

from collections import Counter
from collections.abc import Sequence

from optimizer.config import counted, listed

from ..errors import ConfigError
from .meta import EpisodeSpan


def chosen_episodes(
    all_episodes: Sequence[EpisodeSpan], episodes: Sequence[int] | None, excluded: Sequence[int], path: str
) -> list[EpisodeSpan]:
    """Return the episodes to load, in the order of their frames.

    Args:
        all_episodes: The data set's, by number.
        episodes: Numbers of those to load; None: all.
        excluded: Numbers of those to leave out.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: A number is not there, or no episode is left.
    """
    numbers = range(len(all_episodes)) if episodes is None else episodes
    _check(numbers, range(len(all_episodes)), f"{path}.episodes")
    _check(excluded, range(len(all_episodes)), f"{path}.exclude_episodes")
    left = sorted(set(numbers) - set(excluded))
    if not left:
        name = "exclude_episodes" if excluded else "episodes"
        raise ConfigError(f"{path}.{name}: must leave one episode at least; none is left.")
    return [all_episodes[number] for number in left]


def split_episodes(
    chosen: Sequence[EpisodeSpan], held_out: float | Sequence[int], path: str
) -> tuple[list[EpisodeSpan], list[EpisodeSpan]]:
    """Return the episodes to train on, and those to evaluate on.

    Args:
        chosen: The episodes that are loaded.
        held_out: The share of the episodes, which are the last ones; or their numbers.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: A number is not among the chosen ones, or nothing is left to train on.
    """
    if isinstance(held_out, float | int):
        count = max(1, round(len(chosen) * held_out)) if held_out else 0
        numbers = {episode.index for episode in chosen[len(chosen) - count :]}
    else:
        _check(held_out, [episode.index for episode in chosen], f"{path}.held_out")
        numbers = set(held_out)
    train = [episode for episode in chosen if episode.index not in numbers]
    if not train:
        raise ConfigError(
            f"{path}.held_out: must leave one episode to train on; {held_out} of"
            f" {counted(len(chosen), 'episode')} leaves none."
        )
    return train, [episode for episode in chosen if episode.index in numbers]


def _check(numbers: Sequence[int], known: Sequence[int], path: str) -> None:
    for number in numbers:
        if number not in known:
            names = f"0 to {len(known) - 1}" if isinstance(known, range) else listed(known)
            raise ConfigError(f"{path}: no episode {number}. Episodes: {names}.")
    if twice := [number for number, count in Counter(numbers).items() if count > 1]:
        raise ConfigError(f"{path}: must have each episode once; it has {listed(twice)} more than once.")
