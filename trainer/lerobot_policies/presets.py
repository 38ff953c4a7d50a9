"""LeRobot's presets of optimizers and schedules, as entries of `model.component_optims`."""

import dataclasses
from typing import Any

from .arguments import plain


def preset_of(config: Any) -> dict[str, Any]:
    """Return the optimizer and the schedule that LeRobot trains with: {"type": KEY, "params": {…, "schedule": {…}}}.

    Args:
        config: LeRobot's config object of a policy.
    """
    optimizer = config.get_optimizer_preset()
    params = plain(dataclasses.asdict(optimizer))
    key = optimizer.type
    if key == "xvla-adamw":
        key, params = "adamw", _xvla(params)
    scheduler = config.get_scheduler_preset()
    if scheduler is not None:
        fields = {name: value for name, value in plain(dataclasses.asdict(scheduler)).items() if value is not None}
        params["schedule"] = {"type": scheduler.type, **fields}
    return {"type": key, "params": params}


def _xvla(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `adamw` for LeRobot's XVLAAdamWConfig, which groups the parameters by name."""
    scale, start = params.pop("soft_prompt_lr_scale"), params.pop("soft_prompt_warmup_lr_scale")
    lr, weight_decay = params["lr"], params["weight_decay"]
    rules = [
        {"regex": "(?i)vlm", "lr": lr * 0.1, "weight_decay": weight_decay * 0.1},
        {"regex": "(?i)soft_prompt", "lr": lr * (scale if start is None else start)},
    ]
    return {**params, "param_groups": rules}
