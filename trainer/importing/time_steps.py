"""The time steps that each of LeRobot's policies learns from, in frames from a sample's own."""

from collections.abc import Callable
from dataclasses import dataclass

from optimizer.config import shown_value

from ..errors import ConfigError
from .conversion import Conversion


@dataclass(frozen=True)
class TimeSteps:
    """Distances from a sample's frame, and the frames at the end of an episode that are not samples."""

    observations: range = range(1)
    actions: range = range(1)
    rewards: range | None = None
    drop_last: int = 0


@dataclass(frozen=True)
class _Lengths:
    """Whole numbers of a policy's config, with LeRobot's defaults for those that the file leaves out."""

    conversion: Conversion

    def __call__(self, name: str, default: int) -> int:
        value = self.conversion.get(f"policy.{name}")
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"policy.{name}: must be a whole number; got {shown_value(value)}")
        return value


def time_steps(policy: str, conversion: Conversion) -> TimeSteps | None:
    """Return the time steps of a policy by its type; None if the type is not one of LeRobot 0.6.1's.

    Raises:
        ConfigError: One of the lengths that they follow from is not a whole number.
    """
    find = _BY_TYPE.get(policy)
    return None if find is None else find(_Lengths(conversion))


def _chunk(default: int) -> Callable[[_Lengths], TimeSteps]:
    return lambda of: TimeSteps(range(1), range(of("chunk_size", default)))


def _diffusion(of: _Lengths) -> TimeSteps:
    first = 1 - of("n_obs_steps", 2)
    return TimeSteps(range(first, 1), range(first, first + of("horizon", 64)), drop_last=of("drop_n_last_frames", 7))


def _multi_task_dit(of: _Lengths) -> TimeSteps:
    n_obs_steps, horizon = of("n_obs_steps", 2), of("horizon", 32)
    first = 1 - n_obs_steps
    drop_last = of("drop_n_last_frames", horizon - of("n_action_steps", 24) - n_obs_steps + 1)
    return TimeSteps(range(first, 1), range(first, first + horizon), drop_last=drop_last)


def _vqbet(of: _Lengths) -> TimeSteps:
    first = 1 - of("n_obs_steps", 5)
    return TimeSteps(range(first, 1), range(first, of("n_action_pred_token", 7) + of("action_chunk_size", 5) - 1))


def _tdmpc(of: _Lengths) -> TimeSteps:
    horizon = of("horizon", 5)
    return TimeSteps(range(horizon + 1), range(horizon), range(horizon))


def _fastwam(of: _Lengths) -> TimeSteps:
    frames = range(0, of("num_video_frames", 33), max(1, of("action_video_freq_ratio", 4)))
    return TimeSteps(frames, range(of("action_horizon", 32)))


def _groot(of: _Lengths) -> TimeSteps:
    chunk = min(of("chunk_size", 40), 40)
    return TimeSteps(range(1), range(chunk), drop_last=max(0, chunk - 1))


def _lingbot_va(of: _Lengths) -> TimeSteps:
    frames, apart = of("frame_chunk_size", 4), of("action_per_frame", 4)
    stride = max(1, apart // 4)
    return TimeSteps(range(0, frames * 4 * stride, stride), range(frames * apart))


def _vla_jepa(of: _Lengths) -> TimeSteps:
    return TimeSteps(range(of("num_video_frames", 8)), range(of("chunk_size", 7)))


_BY_TYPE: dict[str, Callable[[_Lengths], TimeSteps]] = {
    "act": _chunk(100),
    "diffusion": _diffusion,
    "eo1": _chunk(8),
    "evo1": _chunk(50),
    "fastwam": _fastwam,
    "groot": _groot,
    "lingbot_va": _lingbot_va,
    "molmoact2": _chunk(30),
    "multi_task_dit": _multi_task_dit,
    "pi0": _chunk(50),
    "pi05": _chunk(50),
    "pi0_fast": _chunk(50),
    "smolvla": _chunk(50),
    "tdmpc": _tdmpc,
    "vla_jepa": _vla_jepa,
    "vqbet": _vqbet,
    "wall_x": _chunk(32),
    "xvla": _chunk(32),
}
