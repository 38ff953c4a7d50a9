"""Norms of gradients that are taken once a step, for all that needs them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.transforms import clip_factor, clip_to_norm, quick_norms, scale_all, total_norm


class GradientNorms:
    """The joint L2 norms of the gradients of those components whose optimizers have a quick way to take them.

    For such a component one pass over its gradients serves the check that they are finite, the metric, the joint clip
    of several components and the clip of its optimizer, which scale gradients in the optimizer's step. The others are
    small, or not on the CPU: their gradients are checked, measured and clipped by PyTorch's operations, one by one.

    Args:
        optimizers: By component name.
        parameters: Those of each component that train. An optimizer of others is not asked for a norm: a factory of the
            user's may have left some out.
        scales_in_steps: Whether the clip of several components may scale gradients in the steps.
    """

    def __init__(
        self, optimizers: Mapping[str, Optimizer], parameters: Mapping[str, Iterable[Tensor]], *, scales_in_steps: bool
    ) -> None:
        self._optimizers, self._scales_in_steps = optimizers, scales_in_steps
        self._whole = {name for name, own in parameters.items() if set(own) == _parameters_of(optimizers[name])}
        self._norms: dict[str, Tensor] = {}
        self._scale: Tensor | None = None

    def clear(self) -> None:
        """Forget the norms of the last step."""
        self._norms.clear()
        self._scale = None

    def take(self, gradients: Mapping[str, Sequence[Tensor]]) -> None:
        """Take the norms of the gradients of components, where there is a quick way."""
        whole = {component: own for component, own in gradients.items() if component in self._whole}
        norms = quick_norms([self._optimizers[component] for component in whole], [*whole.values()])
        self._norms |= {component: norm for component, norm in zip(whole, norms, strict=True) if norm is not None}

    def norm(self, component: str, gradients: Iterable[Tensor]) -> Tensor:
        """Return the norm of the gradients of a component, a scalar."""
        norm = self._norms.get(component)
        return total_norm(gradients) if norm is None else norm

    def are_finite(self, component: str) -> bool:
        """Return whether the gradients of a component are known to be finite."""
        return component in self._norms and math.isfinite(self._norms[component])

    def clip(
        self, components: Sequence[str], gradients_of: Callable[[tuple[str, ...]], list[Tensor]], max_norm: float
    ) -> None:
        """Clip the joint gradient of components. Where its norm is not finite it stays as it is.

        Args:
            components: Their names.
            gradients_of: Returns the gradients of components in the order of the model.
            max_norm: The norm.
        """
        others = tuple(name for name in components if name not in self._norms)
        gradients = gradients_of(others)
        if len(others) == len(components):
            clip_to_norm(gradients, max_norm, keep_overflowed=True)
            return
        known = self._norms.keys() & set(components)
        norms = [*(self._norms[name] for name in sorted(known)), total_norm(gradients)]
        dtype = reduce(torch.promote_types, (norm.dtype for norm in norms))
        joint = torch.tensor(math.hypot(*map(float, norms)), dtype=dtype, device="cpu")
        factor = clip_factor(joint, max_norm, keep_overflowed=True)
        if factor is None:
            return
        if self._scales_in_steps:
            self._scale = factor
        else:
            gradients = gradients_of(tuple(components))
        scale_all(gradients, factor)

    def hand_over(self, component: str) -> None:
        """Give the coming step of a component the norm of its gradients, and their scale from the joint clip."""
        norm = self._norms.get(component)
        if norm is not None and self._scales_in_steps:
            optimizer: Any = self._optimizers[component]
            optimizer.known_norm, optimizer.gradient_scale = norm, self._scale


def _parameters_of(optimizer: Optimizer) -> set[Tensor]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}
