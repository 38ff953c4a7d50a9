"""`muon`, which updates matrices only, with a fallback inside it for the other parameters."""

import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from ..config.tagged_field import TaggedField
from ..scheduling.optimizer import ScheduledOptimizer
from ..scheduling.scheduled_class import scheduled
from ..transforms.composite_optimizer import CompositeOptimizer
from ..types import Options, ParamGroup
from .base import OPTIMIZER_BUILDER_REGISTRY
from .group_rules import matching_names
from .parameter_groups import name_of, tensor_of
from .torch_optim import TorchFactory, torch_factory

Fallback = Annotated[TorchFactory, TaggedField(OPTIMIZER_BUILDER_REGISTRY, TorchFactory, "adamw")]

SHARED = (
    "schedule",
    "option_schedules",
    "grad_clip_norm",
    "param_groups",
    "no_decay",
    "layer_decay",
    "use_cautious_optimizer",
)
"""Fields that apply to the whole optimizer, so that a fallback must not have them."""


class MatrixFactory(TorchFactory):
    """Base of factories of optimizers for matrices: other parameters are updated by a fallback.

    On sharded parameters torch's Muon sends about 13 messages for each matrix and step.
    """

    fallback: Fallback | None = None
    """The optimizer for the other parameters: {type: adamw, lr: …}. Both follow one schedule, each from its own lr."""
    fallback_match: list[str] = Field(default_factory=list)
    """Names with * and ? of matrices that the fallback also updates: embeddings, the output layer."""

    @model_validator(mode="after")
    def _check_fallback(self) -> Self:
        if self.fallback is None:
            if self.fallback_match:
                self.refuse("fallback_match", "needs a fallback: {type: adamw, …}")
            return self
        cannot = (torch.optim.LBFGS, torch.optim.SparseAdam)  # a closure, and sparse gradients
        if isinstance(self.fallback, MatrixFactory) or self.fallback.optimizer_class in cannot:
            self.refuse("fallback", f"cannot be {self.fallback.optimizer_class.__name__}")
        for name in ("state_dtype", "stochastic_rounding"):
            if getattr(self.fallback, name):
                self.refuse("fallback", f"{name} is not available in a fallback")
        for name in SHARED:
            default = type(self.fallback).model_fields[name].get_default(call_default_factory=True)
            if getattr(self.fallback, name) != default:
                self.refuse("fallback", f"{name} applies to the whole optimizer: give it outside the fallback")
        return self

    def lr_of(self, name: str, parameter: Tensor) -> float:
        if self.fallback is None or self._is_for_matrices(name, parameter):
            return self.base_lr
        return self.fallback.base_lr

    def _make(self, groups: list[ParamGroup], options: Options) -> ScheduledOptimizer:
        matrices = _select(groups, self._is_for_matrices)
        rest = _select(groups, lambda name, parameter: not self._is_for_matrices(name, parameter))
        if self.fallback_match:
            names = [name_of(item) for group in groups for item in group["params"]]
            matching_names(names, self.fallback_match, "fallback_match")
        if not rest:
            return super()._make(matrices, options)
        if self.fallback is None:
            others = [name_of(item) or str(list(tensor_of(item).shape)) for group in rest for item in group["params"]]
            raise ValueError(
                f"{self.optimizer_class.__name__} takes matrices only, and these are not matrices: {', '.join(others)}."
                " Give the optimizer for them: fallback: {type: adamw, lr: …}"
            )
        if not matrices:
            raise ValueError("fallback: there is no matrix to optimize; use the fallback alone")
        self._refuse_foreign_options(rest, self.fallback)
        make: Callable[..., Optimizer] = self.optimizer_class
        make_fallback: Callable[..., Optimizer] = self.fallback.optimizer_class
        members = [make(matrices, **options), make_fallback(rest, **self.fallback.class_options(rest))]
        compose: Callable[..., ScheduledOptimizer] = scheduled(CompositeOptimizer)
        return compose(members).embed(self.curve, **self._embedded())

    def _is_for_matrices(self, name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2 and not any(fnmatchcase(name, pattern) for pattern in self.fallback_match)

    def _refuse_foreign_options(self, groups: list[ParamGroup], fallback: TorchFactory) -> None:
        known = inspect.signature(fallback.optimizer_class).parameters
        for group in groups:
            for option in group.keys() - {"params", "param_names", *known}:
                raise ValueError(
                    f"parameter groups: {fallback.optimizer_class.__name__}, the fallback, has no {option};"
                    f" it is for {', '.join(map(name_of, group['params']))}"
                )


def _select(groups: list[ParamGroup], keep: Callable[[str, Tensor], bool]) -> list[ParamGroup]:
    """Return `groups` with the parameters for which `keep(name, parameter)` is true, without empty groups."""
    kept = [
        {**group, "params": [item for item in group["params"] if keep(name_of(item), tensor_of(item))]}
        for group in groups
    ]
    return [group for group in kept if group["params"]]


MuonFactory = OPTIMIZER_BUILDER_REGISTRY.register("muon")(
    torch_factory("muon", torch.optim.Muon, base=MatrixFactory, module=__name__)
)
