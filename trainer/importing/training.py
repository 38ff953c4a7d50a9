"""`seed` and `train`: the length of the run, its device and precision, and what it logs and saves."""

from ..config.plain_values import Plain
from .conversion import Conversion

_PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def convert_training(conversion: Conversion, policy: str) -> None:
    """Make `seed` and `train`, but for `train.evaluation`.

    Args:
        conversion: Where the config grows.
        policy: The policy's type.

    Raises:
        ConfigError: A value has a wrong type.
    """
    conversion.put("train.total_steps", conversion.whole("steps", "train.total_steps", 100_000))
    _run_dir(conversion, policy)
    _device(conversion)
    _cadence(conversion)
    _averages(conversion)


def convert_seed(conversion: Conversion) -> int:
    """Make `seed`, and return it."""
    if conversion.get("seed", 1000) is None:
        conversion.take("seed", "seed")
        conversion.put("seed", 0, "LeRobot's seed is null: each of its runs is different. Here a seed is always set.")
        return 0
    seed = conversion.whole("seed", "seed", 1000)
    conversion.put("seed", seed)
    return seed


def _run_dir(conversion: Conversion, policy: str) -> None:
    environment = conversion.get("env.type")
    default = policy if environment is None else f"{environment}_{policy}"
    job = conversion.text("job_name", "train.run_dir") or default
    folder = conversion.text("output_dir", "train.run_dir")
    if folder is not None:
        conversion.put("train.run_dir", folder)
        if conversion.has("job_name"):
            del conversion.mapped["job_name"]
            conversion.leave("job_name", "a run is named by train.run_dir")
    else:
        conversion.put("train.run_dir", f"runs/{job}", "LeRobot makes outputs/train/DATE/TIME_NAME, new each time.")


def _device(conversion: Conversion) -> None:
    device = conversion.text("policy.device", "train.device")
    if device == "cuda":
        conversion.comment("train.run_dir", "The device is auto, the CUDA device if there is one, as in LeRobot.")
    elif device is not None:
        conversion.put("train.device", device)
    use_amp = conversion.flag("policy.use_amp", "train.precision", False)
    mixed = conversion.text("accelerator.mixed_precision", "train.precision")  # since 0.6.2
    number_type = conversion.get("policy.dtype")
    if mixed is not None:  # what the loop takes, whatever the policy has
        conversion.put("train.precision", "fp32" if mixed == "no" else mixed)
    elif number_type is not None:
        conversion.put(
            "train.precision",
            _PRECISION.get(str(number_type), "fp32"),
            "From policy.dtype, as LeRobot's loop takes it.",
        )
    elif use_amp:
        precision = "bf16" if device == "cpu" else "fp16"
        conversion.put("train.precision", precision, f"From policy.use_amp: autocast's type on {device or 'cuda'}.")


def _cadence(conversion: Conversion) -> None:
    every = conversion.whole("log_freq", "train.log_every", 200)
    steps = conversion.whole("steps", "train.total_steps", 100_000)
    conversion.put("train.log_every", every if every > 0 else steps)
    every = conversion.whole("save_freq", "train.save_every", 20_000)
    if not conversion.flag("save_checkpoint", "train.save_every", True):
        conversion.put("train.save_every", None, "save_checkpoint is false in LeRobot; here the last update is saved.")
    else:
        conversion.put("train.save_every", every if every > 0 else None)
    conversion.put("train.save_every_minutes", None, "LeRobot saves by steps only.")
    every = conversion.whole("eval_steps", "train.eval_every", 0)
    if every > 0:
        conversion.put("train.eval_every", every)


def _averages(conversion: Conversion) -> None:
    """Make `train.ema` of `ema`, which LeRobot has since 0.6.2."""
    if not conversion.section("ema"):
        conversion.take("ema", "train.ema")
        return
    enabled = conversion.flag("ema.enable", "train.ema", False)
    constant, most = (
        conversion.take("ema.decay", "train.ema.decay"),
        conversion.take("ema.max_decay", "train.ema.decay", 0.9999),
    )
    power = conversion.take("ema.power", "train.ema.power", 0.75)
    if enabled:
        averages: dict[str, Plain] = {"decay": most, "power": power}
        conversion.put("train.ema", averages if constant is None else {"decay": constant, "power": None})
