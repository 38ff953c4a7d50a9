"""`muon`, which takes matrices only, and the optimizer for the rest of the parameters inside it."""

import inspect
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..config.tagged_field import TaggedField
from ..scheduling.optimizer import ScheduledOptimizer
from ..scheduling.scheduled_class import scheduled
from ..transforms.composite_optimizer import CompositeOptimizer
from ..types import ParamGroup
from .base import OPTIMIZER_BUILDER_REGISTRY
from .parameter_groups import matching
from .torch_optim import TorchFactory, torch_factory

Fallback = Annotated[TorchFactory, TaggedField(OPTIMIZER_BUILDER_REGISTRY, TorchFactory, "adamw", listed=False)]

SHARED = (
    "schedule",
    "option_schedules",
    "grad_clip_norm",
    "param_groups",
    "no_decay",
    "layer_decay",
    "use_cautious_optimizer",
)
"""What holds for the whole optimizer, and is given outside."""


class MatrixFactory(TorchFactory):
    """Base of the factories of optimizers that take matrices only: what is none goes to a fallback."""

    fallback: Fallback | None = None
    """The optimizer for what is no matrix: {type: adamw, lr: …}. Both follow the one schedule, each from its lr."""
    fallback_match: list[str] = Field(default_factory=list)
    """Names with * and ? of matrices that go to the fallback too: embeddings, the output layer."""

    @model_validator(mode="after")
    def _check_fallback(self) -> Self:
        if self.fallback is None:
            if self.fallback_match:
                self.refuse("fallback_match", "needs a fallback: {type: adamw, …}")
            return self
        cannot = (torch.optim.LBFGS, torch.optim.SparseAdam)  # a closure, and sparse gradients
        if isinstance(self.fallback, MatrixFactory) or self.fallback.optimizer_class in cannot:
            self.refuse("fallback", f"cannot be {self.fallback.optimizer_class.__name__}")
        if self.fallback.state_dtype is not None:
            self.refuse("fallback", "state_dtype is for an optimizer of its own, and not for a fallback")
        for name in SHARED:
            default = type(self.fallback).model_fields[name].get_default(call_default_factory=True)
            if getattr(self.fallback, name) != default:
                self.refuse("fallback", f"{name} holds for the whole optimizer: give it outside")
        return self

    def lr_of(self, name: str, parameter: Tensor) -> float:
        if self.fallback is None or self._takes(name, parameter):
            return self.base_lr
        return self.fallback.base_lr

    def _make(self, groups: list[ParamGroup], options: dict[str, Any]) -> ScheduledOptimizer:
        matrices = _of(groups, self._takes)
        rest = _of(groups, lambda name, parameter: not self._takes(name, parameter))
        if self.fallback_match:
            matching(
                [_name(item) for group in groups for item in group["params"]], self.fallback_match, "fallback_match"
            )
        if not rest:
            return super()._make(matrices, options)
        if self.fallback is None:
            names = ", ".join(
                _name(item) or str(list(_tensor(item).shape)) for group in rest for item in group["params"]
            )
            raise ValueError(
                f"{self.optimizer_class.__name__} takes matrices only, and these are none: {names}. Give the optimizer"
                " for them: fallback: {type: adamw, lr: …}"
            )
        if not matrices:
            raise ValueError("fallback: there is no matrix to optimize; use the fallback alone")
        self._refuse_foreign_options(rest, self.fallback)
        make: Any = self.optimizer_class
        make_other: Any = self.fallback.optimizer_class
        parts = [make(matrices, **options), make_other(rest, **self.fallback.class_options(rest))]
        whole: Any = scheduled(CompositeOptimizer)
        optimizer: ScheduledOptimizer = whole(parts)
        return optimizer.embed(self.curve, **self._embedded())

    def _takes(self, name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2 and not any(fnmatchcase(name, pattern) for pattern in self.fallback_match)

    def _refuse_foreign_options(self, groups: list[ParamGroup], fallback: TorchFactory) -> None:
        known = inspect.signature(fallback.optimizer_class).parameters
        for group in groups:
            for option in group.keys() - {"params", "param_names", *known}:
                raise ValueError(
                    f"parameter groups: {fallback.optimizer_class.__name__}, the fallback, has no {option};"
                    f" it is for {', '.join(map(_name, group['params']))}"
                )


def _of(groups: list[ParamGroup], takes: Any) -> list[ParamGroup]:
    kept = [{**group, "params": [p for p in group["params"] if takes(_name(p), _tensor(p))]} for group in groups]
    return [group for group in kept if group["params"]]


def _name(item: Tensor | tuple[str, Tensor]) -> str:
    return item[0] if isinstance(item, tuple) else ""


def _tensor(item: Tensor | tuple[str, Tensor]) -> Tensor:
    return item[1] if isinstance(item, tuple) else item


MuonFactory = OPTIMIZER_BUILDER_REGISTRY.register("muon")(
    torch_factory("muon", torch.optim.Muon, base=MatrixFactory, module=__name__)
)
