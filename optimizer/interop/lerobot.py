"""For users of LeRobot: one call from a training config and a policy to an optimizer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..config.messages import nearest
from ..config.registry import UnknownKeyError
from ..factories.base import OPTIMIZER_BUILDER_REGISTRY
from ..schedules.horizon import Horizon

KNOWN = ("optimizer", "scheduler", "steps", "use_policy_training_preset")


def make_optimizer_and_scheduler(cfg: Any, policy: nn.Module) -> tuple[Optimizer | dict[str, Optimizer], None]:
    """Return the optimizer with the schedule inside, and None where LeRobot's function returns a scheduler.

    cfg: a mapping, or an object such as LeRobot's TrainPipelineConfig, with `optimizer` ({type: KEY, …} or an
    object with a `type`), `scheduler` (likewise, or None), `steps`, and `use_policy_training_preset`. Unless the
    last is false, what `policy.optimizer_preset()` recommends holds where `optimizer` and `scheduler` say nothing, and
    the parameters are those of `policy.get_optim_params()`, if it has that.
    Raises ValueError if there is neither an optimizer nor a preset, ValidationError for impossible values.
    """
    if isinstance(cfg, Mapping):
        for name in cfg.keys() - set(KNOWN):
            raise ValueError(f"unknown name {name!r}{nearest(name, KNOWN)} Known: {', '.join(KNOWN)}")
    given, scheduler = _entry(cfg, "optimizer"), _entry(cfg, "scheduler")
    recommended = _value(cfg, "use_policy_training_preset") is not False
    preset = _preset(policy) if recommended else {}
    if preset and given.get("type", preset["type"]) != preset["type"]:
        preset = {}  # another optimizer, whose parameters the preset's are not
    options = {**preset, **given, **({"schedule": scheduler} if scheduler else {})}
    if "type" not in options:
        raise ValueError("optimizer: not given, and the policy brings no optimizer_preset(); give {type: KEY, …}")
    steps = _value(cfg, "steps")
    try:
        factory: Any = OPTIMIZER_BUILDER_REGISTRY[options.pop("type")](**options)
    except UnknownKeyError as error:
        raise ValueError(f"optimizer.type: {error}") from None
    params = _recommended_params(policy) if recommended else policy
    return factory.build(params, horizon=None if steps is None else Horizon(steps)), None


def _recommended_params(policy: nn.Module) -> Any:
    """Return what the policy's get_optim_params() says, with the parameters' names; without it, the policy."""
    recommend: Any = getattr(policy, "get_optim_params", None)
    if recommend is None:
        return policy
    names = {parameter: name for name, parameter in policy.named_parameters()}
    listed = list(recommend())
    groups = listed if listed and isinstance(listed[0], dict) else [{"params": listed}]
    return [{**group, "params": [(names[p], p) for p in group["params"] if p.requires_grad]} for group in groups]


def _preset(policy: nn.Module) -> dict[str, Any]:
    recommend = getattr(policy, "optimizer_preset", None)
    if recommend is None:
        return {}
    preset = recommend()
    return {"type": preset["type"], **preset.get("params", {})}


def _entry(cfg: Any, name: str) -> dict[str, Any]:
    value = _value(cfg, name)
    if value is None:
        return {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.asdict(value)
    else:
        fields = dict(value) if isinstance(value, Mapping) else dict(getattr(value, "__dict__", {}))
    fields = {"type": getattr(value, "type", None), **fields}  # an attribute of the class, with draccus
    if not isinstance(fields["type"], str):
        raise ValueError(f"{name}: must have a `type`, as in {{type: KEY, …}}; got {value!r}")
    return fields


def _value(cfg: Any, name: str) -> Any:
    return cfg.get(name) if isinstance(cfg, Mapping) else getattr(cfg, name, None)
