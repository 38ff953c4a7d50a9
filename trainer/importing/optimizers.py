"""`model.component_optims`: the preset of the policy, or the optimizer and scheduler that the file gives."""

from typing import Any

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Registry, UnknownKeyError
from optimizer.config import shown_value

from ..config.plain_values import Plain
from ..errors import ConfigError
from ..splitting.parts import REST
from .conversion import Conversion

PLACE = f"model.component_optims.{REST}"
_OF_PRESET = {
    "optimizer.lr": "optimizer_lr",
    "optimizer.betas": "optimizer_betas",
    "optimizer.eps": "optimizer_eps",
    "optimizer.weight_decay": "optimizer_weight_decay",
    "optimizer.grad_clip_norm": "optimizer_grad_clip_norm",
    "scheduler.num_warmup_steps": "scheduler_warmup_steps",
    "scheduler.num_decay_steps": "scheduler_decay_steps",
    "scheduler.decay_lr": "scheduler_decay_lr",
    "scheduler.name": "scheduler_name",
}
"""Fields of a policy that its preset takes, by the field of the optimizer or scheduler that they set."""


def convert_optimizers(conversion: Conversion) -> None:
    """Make the policy's entry of `optimizer`, `scheduler` and `use_policy_training_preset`.

    Raises:
        ConfigError: An optimizer or scheduler is missing, unknown, or builds several optimizers.
    """
    preset = conversion.flag("use_policy_training_preset", f"{PLACE}.type", True)
    _with_preset(conversion) if preset else _as_given(conversion)
    _of_policy(conversion)


def _with_preset(conversion: Conversion) -> None:
    conversion.put(f"{PLACE}.type", "preset", "The optimizer and schedule that the policy recommends.")
    dropped: list[str] = []
    for section in ("optimizer", "scheduler"):
        if conversion.get(section) is None:
            conversion.take(section, f"{PLACE}.type")
        for name in conversion.section(section):
            path = f"{section}.{name}"
            conversion.take(path, f"{PLACE}.type")
            dropped += _dropped(conversion, path)
    if dropped:
        conversion.comment(
            f"{PLACE}.type",
            "LeRobot drops these in silence, as use_policy_training_preset is true, and trains with the policy's own:",
            *(f"  {line}" for line in dropped),
            "To train with the given values, write them as params: they win over the preset here.",
        )


def _dropped(conversion: Conversion, path: str) -> list[str]:
    """Return a line about a field of the optimizer or scheduler, if LeRobot trains with another value."""
    value, own = conversion.get(path), f"policy.{_OF_PRESET.get(path, '')}"
    if "optimizer_lr" not in conversion.section("policy"):  # typed by hand: LeRobot writes all fields
        return [f"{path}: {shown_value(value)}"]
    if conversion.get(own) in (None, value):
        return []
    return [f"{path}: {shown_value(value)}; {own} is {shown_value(conversion.get(own))}"]


def _as_given(conversion: Conversion) -> None:
    conversion.take("use_policy_training_preset", f"{PLACE}.type")
    kind, params = _entry(conversion, "optimizer", OPTIMIZER_BUILDER_REGISTRY)
    if getattr(OPTIMIZER_BUILDER_REGISTRY[kind], "builds_multiple_optimizers", False):
        raise ConfigError(
            f"optimizer.type: {kind} is several optimizers, which lerobot-train cannot step either. Take the policy"
            " apart by model.policy.parts, and give each part its own."
        )
    conversion.put(f"{PLACE}.type", kind)
    if conversion.get("scheduler") is None:
        conversion.take("scheduler", f"{PLACE}.params.schedule")
        conversion.comment(
            f"{PLACE}.type", "A constant lr, as scheduler is null. LeRobot asks for a scheduler without the preset."
        )
    else:
        key, options = _entry(conversion, "scheduler", SCHEDULE_REGISTRY)
        params["schedule"] = {"type": key, **{name: value for name, value in options.items() if value is not None}}
    conversion.put(f"{PLACE}.params", params)


def _entry(conversion: Conversion, section: str, registry: Registry[Any]) -> tuple[str, dict[str, Plain]]:
    """Return the type and the other fields of `optimizer` or `scheduler`."""
    options = conversion.section(section)
    key = conversion.get(f"{section}.type")
    if not isinstance(key, str):
        raise ConfigError(
            f"{section}.type: required, as use_policy_training_preset is false; {section} is"
            f" {shown_value(conversion.get(section))}"
        )
    if "." in key:  # a dotted path would import the module that a file from anywhere names
        raise ConfigError(f"{section}.type: must be a key of LeRobot's; got {shown_value(key)}")
    try:
        _ = registry[key]
    except UnknownKeyError as error:
        raise ConfigError(f"{section}.type: {error}") from error
    place = f"{PLACE}.params" if section == "optimizer" else f"{PLACE}.params.schedule"
    for name in options:
        conversion.take(f"{section}.{name}", f"{PLACE}.type" if name == "type" else f"{place}.{name}")
    return key, {name: value for name, value in options.items() if name != "type"}


def _of_policy(conversion: Conversion) -> None:
    """Put `policy.optimizer` and `policy.scheduler`, of LeRobot's guide and not of its code, into the entry."""
    for section, below in (("optimizer", ""), ("scheduler", "schedule.")):
        options = conversion.section(f"policy.{section}")
        for name in options:
            value = conversion.take(f"policy.{section}.{name}", f"{PLACE}.params.{below}{name}")
            conversion.put(f"{PLACE}.params.{below}{name}", value)
