"""`xvla-adamw`: LeRobot's AdamW for X-VLA, with smaller steps for the vision-language model.

Source: lerobot.optim.optimizers.XVLAAdamWConfig.
"""

import torch
from torch import nn

from ..config.fields import Beta, NonNegativeNumber
from ..types import ParamGroup
from .base import OPTIMIZER_BUILDER_REGISTRY
from .group_rules import GroupRule
from .parameter_groups import name_of
from .torch_optim import TorchFactory, torch_factory

_VLM, _SOFT_PROMPT = "(?i)vlm", "(?i)soft_prompt"
_VLM_SHARE = 0.1
_Base: type[TorchFactory] = torch_factory("adamw", torch.optim.AdamW)


@OPTIMIZER_BUILDER_REGISTRY.register("xvla-adamw")
class XVLAAdamWFactory(_Base):  # type: ignore[misc, valid-type]  # mypy takes no variable as a base
    """AdamW with rates by name: a tenth of the lr and weight decay for names that contain `vlm`, in any case.

    Those that contain `soft_prompt` have the lr of `soft_prompt_lr_scale`. Rules in `param_groups` take precedence.
    """

    lr: NonNegativeNumber = 1e-4
    """Learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Decay rates of the running means of the gradient and of its square."""
    weight_decay: NonNegativeNumber = 0.0
    """Weight decay, decoupled."""
    soft_prompt_lr_scale: NonNegativeNumber = 1.0
    """Factor on the lr of soft prompts."""
    soft_prompt_warmup_lr_scale: NonNegativeNumber | None = None
    """If given, the factor in place of `soft_prompt_lr_scale`. As in LeRobot, it holds in the whole run."""

    def _group(self, groups: list[ParamGroup], module: nn.Module | None) -> list[ParamGroup]:
        named = [(name_of(item), item) for group in groups for item in group["params"]]
        if not all(name for name, _ in named):
            raise ValueError(
                "xvla-adamw goes by the parameters' names: build from a module, or from named_parameters()"
            )
        free = [name for name, _ in named if not any(rule.matches(name) for rule in self.param_groups)]
        vlm = GroupRule(regex=_VLM, lr_multiplier=_VLM_SHARE, weight_decay=self.weight_decay * _VLM_SHARE)
        scale, start = self.soft_prompt_lr_scale, self.soft_prompt_warmup_lr_scale
        soft_prompts = GroupRule(regex=_SOFT_PROMPT, lr_multiplier=scale if start is None else start)
        rules = []
        for rule in (vlm, soft_prompts):
            matched = [name for name in free if rule.matches(name)]
            free = [name for name in free if name not in matched]
            rules += [rule] if matched else []
        with_rules = self.model_copy(update={"param_groups": [*self.param_groups, *rules]})
        grouped: list[ParamGroup] = super(XVLAAdamWFactory, with_rules)._group(groups, module)
        return grouped
