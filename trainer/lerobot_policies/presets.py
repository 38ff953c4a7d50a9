"""LeRobot's presets of optimizers and schedules, as entries of `model.component_optims`."""

import dataclasses
from typing import Any

from .arguments import plain

_BY_NAME = "xvla-adamw"
"""LeRobot's optimizer that groups parameters by their names in the policy."""


def preset_of(config: Any) -> dict[str, Any]:
    """Return the optimizer and the schedule that LeRobot trains with: {"type": KEY, "params": {…, "schedule": {…}}}.

    Args:
        config: LeRobot's config object of a policy.
    """
    optimizer = config.get_optimizer_preset()
    params = plain(dataclasses.asdict(optimizer))
    key = optimizer.type
    if key == _BY_NAME:
        key, params = "adamw", {name: value for name, value in params.items() if not name.startswith("soft_prompt")}
    scheduler = config.get_scheduler_preset()
    if scheduler is not None:
        fields = {name: value for name, value in plain(dataclasses.asdict(scheduler)).items() if value is not None}
        params["schedule"] = {"type": scheduler.type, **fields}
    return {"type": key, "params": params}


def groups_by_name(config: Any, parameters: Any) -> Any:
    """Return the groups that LeRobot's optimizer makes by the names of parameters; `parameters` if it makes none.

    A part of a policy has other names than the policy, so that its own optimizer could not make them.

    Args:
        config: LeRobot's config object of a policy.
        parameters: The result of the policy's `get_optim_params`.
    """
    optimizer = config.get_optimizer_preset()
    if optimizer.type != _BY_NAME:
        return parameters
    groups = optimizer.build(parameters).param_groups
    return [{name: group[name] for name in ("params", "lr", "weight_decay")} for group in groups]
