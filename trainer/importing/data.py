"""`data`: the data set, its time steps, and how its samples become batches."""

from optimizer.config import shown_value

from ..config.plain_values import Plain
from ..errors import ConfigError
from .conversion import Conversion
from .time_steps import TimeSteps

_PARAMS = "data.params"
_CAMERA = "VISUAL"


def convert_data(conversion: Conversion, steps: TimeSteps | None) -> None:
    """Make `data` of `dataset`, `batch_size` and `num_workers`.

    Args:
        conversion: Where the config grows.
        steps: The time steps of the policy; None if they are not known.

    Raises:
        ConfigError: A value has a wrong type, or no data set is named.
    """
    conversion.put("data.type", "lerobot")
    _place(conversion)
    for name in ("episodes", "exclude_episodes"):
        if (numbers := conversion.take(f"dataset.{name}", f"{_PARAMS}.{name}")) is not None:
            conversion.put(f"{_PARAMS}.{name}", numbers)
    _held_out(conversion)
    _time_steps(conversion, steps)
    _cameras(conversion)
    batch_size = conversion.whole("batch_size", "data.batch_size", 8)
    conversion.put("data.batch_size", batch_size)
    conversion.put("data.workers", conversion.whole("num_workers", "data.workers", 4))


def _place(conversion: Conversion) -> None:
    root = conversion.text("dataset.root", f"{_PARAMS}.root")
    name = conversion.take("dataset.repo_id", f"{_PARAMS}.repo_id")
    if root is not None:
        conversion.put(f"{_PARAMS}.root", root, f"LeRobot's dataset.repo_id, {shown_value(name)}, is its name only.")
        conversion.leave("dataset.revision", "a folder has no revision", None)
    elif isinstance(name, list) and name:
        conversion.put(f"{_PARAMS}.datasets", [{"repo_id": one} for one in name])
        conversion.leave("dataset.revision", "belongs to each entry of data.params.datasets", None)
    elif isinstance(name, str) and name:
        conversion.put(
            f"{_PARAMS}.repo_id", name, "LeRobot looks in $HF_LEROBOT_HOME first: give a folder there as root instead."
        )
        if (revision := conversion.text("dataset.revision", f"{_PARAMS}.revision")) is not None:
            conversion.put(f"{_PARAMS}.revision", revision)
    else:
        raise ConfigError(f"dataset.repo_id: must be the name of a data set; got {shown_value(name)}")


def _held_out(conversion: Conversion) -> None:
    share = conversion.take("dataset.eval_split", f"{_PARAMS}.held_out", 0.0)
    if share:
        conversion.put(
            f"{_PARAMS}.held_out", share, "The last episodes of all; LeRobot takes the last ones of each task."
        )


def _time_steps(conversion: Conversion, steps: TimeSteps | None) -> None:
    if steps is None:
        conversion.comment(
            _PARAMS,
            "The policy's time steps are not known here: give n_obs_steps and chunk, or deltas, by its delta indices.",
        )
        return
    deltas: dict[str, Plain] = {}
    observed = len(steps.observations)
    if steps.observations != range(1 - observed, 1):
        names = list(conversion.section("policy.input_features"))
        deltas |= {name: list(steps.observations) for name in names}
        if not names:
            conversion.comment(
                _PARAMS,
                "The policy reads other time steps of its observations than the present one:",
                f"add each of them to deltas, as NAME: {list(steps.observations)}",
            )
    elif observed > 1:
        conversion.put(f"{_PARAMS}.n_obs_steps", observed)
    if steps.actions != range(len(steps.actions)):
        deltas["action"] = list(steps.actions)
    elif len(steps.actions) > 1:
        conversion.put(f"{_PARAMS}.chunk", len(steps.actions))
    if steps.rewards is not None:
        deltas["next.reward"] = list(steps.rewards)
    if deltas:
        conversion.put(f"{_PARAMS}.deltas", deltas)
    if steps.drop_last:
        conversion.put(f"{_PARAMS}.drop_n_last_frames", steps.drop_last)


def _cameras(conversion: Conversion) -> None:
    """Set what concerns frames, which is refused where the data have no cameras."""
    if not conversion.flag("dataset.use_imagenet_stats", f"{_PARAMS}.use_imagenet_stats", True):
        conversion.put(f"{_PARAMS}.use_imagenet_stats", False)
    backend = conversion.text("dataset.video_backend", f"{_PARAMS}.video_backend")
    if backend == "pyav" and _may_have_cameras(conversion):
        conversion.put(f"{_PARAMS}.video_backend", "pyav")
    elif backend not in (None, "pyav", "torchcodec"):
        conversion.comment(
            _PARAMS,
            f"video_backend is auto: torchcodec where it loads, else PyAV; LeRobot's was {shown_value(backend)}.",
        )
    _image_transforms(conversion)


def _may_have_cameras(conversion: Conversion) -> bool:
    features = conversion.section("policy.input_features")
    return not features or any(isinstance(info, dict) and info.get("type") == _CAMERA for info in features.values())


def _image_transforms(conversion: Conversion) -> None:
    path = "dataset.image_transforms"
    options = conversion.section(path)
    if options.get("enable") is True:
        conversion.take(path, f"{_PARAMS}.image_transforms")
        conversion.put(
            f"{_PARAMS}.image_transforms",
            [{"type": "lerobot.transforms.ImageTransforms", "params": {"cfg": dict(options)}}],
            "LeRobot's class picks max_num_transforms of these for each sample; it needs LeRobot installed.",
        )
    elif conversion.has(path):
        for name in options or ("",):
            conversion.leave(f"{path}.{name}".rstrip("."), "enable is false: no transforms")
