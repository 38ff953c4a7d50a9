"""LeRobot's `make_optimizer_and_scheduler`: from a training config and a policy to an optimizer."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from torch import nn
from torch.optim import Optimizer

from ..config.messages import nearest
from ..config.registry import UnknownKeyError
from ..factories.base import OPTIMIZER_BUILDER_REGISTRY
from ..factories.parameter_groups import Params
from ..schedules.horizon import Horizon
from ..types import Options, ParamGroup

KNOWN = ("optimizer", "scheduler", "steps", "use_policy_training_preset")


def make_optimizer_and_scheduler(cfg: object, policy: nn.Module) -> tuple[Optimizer | dict[str, Optimizer], None]:
    """Return the optimizer with the schedule inside, and None in place of LeRobot's scheduler.

    Args:
        cfg: A mapping, or an object such as LeRobot's TrainPipelineConfig, with `optimizer` ({type: KEY, …} or an
            object with a `type`), `scheduler` (the same, or None), `steps`, and `use_policy_training_preset`.
        policy: The policy. Unless `use_policy_training_preset` is false, `policy.optimizer_preset()` gives the options
            that `optimizer` and `scheduler` leave out, and `policy.get_optim_params()` the parameters, if it has them.

    Raises:
        ValueError: There is neither an optimizer nor a preset.
        ValidationError: A value is not valid.
    """
    if isinstance(cfg, Mapping):
        for name in cfg.keys() - set(KNOWN):
            raise ValueError(f"unknown name {name!r}{nearest(name, KNOWN)} Known: {', '.join(KNOWN)}")
    given, scheduler = _tagged_fields(cfg, "optimizer"), _tagged_fields(cfg, "scheduler")
    uses_preset = _value(cfg, "use_policy_training_preset") is not False
    preset = _preset(policy) if uses_preset else {}
    if preset and given.get("type", preset["type"]) != preset["type"]:
        preset = {}  # its options are those of another optimizer
    options = {**preset, **given, **({"schedule": scheduler} if scheduler else {})}
    if "type" not in options:
        raise ValueError("optimizer: not given, and the policy has no optimizer_preset(); give {type: KEY, …}")
    steps = cast(int | None, _value(cfg, "steps"))  # Horizon checks it
    try:
        factory = OPTIMIZER_BUILDER_REGISTRY[options.pop("type")](**options)
    except UnknownKeyError as error:
        raise ValueError(f"optimizer.type: {error}") from None
    params = _preset_params(policy) if uses_preset else policy
    return factory.build(params, horizon=None if steps is None else Horizon(steps)), None


def _preset_params(policy: nn.Module) -> Params:
    """Return the trainable parameters in the policy's get_optim_params(), named; without this method, the policy."""
    recommend: Callable[[], Iterable[object]] | None = getattr(policy, "get_optim_params", None)
    if recommend is None:
        return policy
    names = {parameter: name for name, parameter in policy.named_parameters()}
    params = list(recommend())
    are_groups = bool(params) and isinstance(params[0], dict)
    groups: list[ParamGroup] = cast(list[ParamGroup], params) if are_groups else [{"params": params}]
    return [{**group, "params": [(names[p], p) for p in group["params"] if p.requires_grad]} for group in groups]


def _preset(policy: nn.Module) -> Options:
    recommend: Callable[[], Options] | None = getattr(policy, "optimizer_preset", None)
    if recommend is None:
        return {}
    preset = recommend()
    return {"type": preset["type"], **preset.get("params", {})}


def _tagged_fields(cfg: object, name: str) -> Options:
    """Return the fields of the mapping or object `name` in `cfg`, with its `type`; empty without it."""
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


def _value(cfg: object, name: str) -> object:
    return cfg.get(name) if isinstance(cfg, Mapping) else getattr(cfg, name, None)
