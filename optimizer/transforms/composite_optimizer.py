"""Several optimizer classes that are one optimizer to the outside."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from .step_hooks import without_hooks

MEMBER = "part"
"""The key under which every parameter group says which of the optimizers updates it."""


class CompositeOptimizer(Optimizer):
    """Optimizers over different parameters, with one state, one list of groups and one step.

    parts: the optimizers, each already made over its own parameters. They keep no state of their own.
    """

    def __init__(self, parts: list[Optimizer]) -> None:
        self._parts = parts
        first = parts[0].defaults
        # An option that only some of the optimizers know is no default of the whole.
        shared = {name: first[name] for name in first if all(name in part.defaults for part in parts)}
        groups = [
            {**_with_names(group), MEMBER: index} for index, part in enumerate(parts) for group in part.param_groups
        ]
        super().__init__(groups, shared)
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer that its `part` names by number; the first, if it names none."""
        if not 0 <= param_group.setdefault(MEMBER, 0) < len(self._parts):
            raise ValueError(f"part: must be from 0 to {len(self._parts) - 1}; got {param_group[MEMBER]}")
        part = self._parts[param_group[MEMBER]]
        super().add_param_group({**part.defaults, **param_group})
        if self.__dict__.get("_shared"):
            self._share()

    def owner_of(self, group: Mapping[str, Any]) -> Optimizer:
        """Return the optimizer that updates `group`."""
        part: int = group[MEMBER]
        return self._parts[part]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch's overloads
        """Update all parameters. closure: evaluates the model anew and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            step_without_hooks(part)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Hand the optimizers their groups and the state, which are replaced when a state is loaded."""
        for index, part in enumerate(self._parts):
            groups = [group for group in self.param_groups if group[MEMBER] == index]
            part.__setstate__({"state": self.state, "param_groups": groups})
        self._shared = True


def _with_names(group: dict[str, Any]) -> dict[str, Any]:
    if "param_names" not in group:
        return group
    named = list(zip(group["param_names"], group["params"], strict=True))
    return {**{name: value for name, value in group.items() if name != "param_names"}, "params": named}


def owner_of(optimizer: Optimizer, group: Mapping[str, Any]) -> Optimizer:
    """Return the optimizer that updates `group`: `optimizer`, or the one of its parts."""
    return optimizer.owner_of(group) if isinstance(optimizer, CompositeOptimizer) else optimizer


def step_without_hooks(optimizer: Optimizer) -> None:
    """Take a step of `optimizer` alone."""
    # The class's step calls the hooks that are registered for all optimizers, which the whole calls already.
    without_hooks(type(optimizer).step)(optimizer)
