"""Several optimizer classes that are one optimizer to the outside."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from ..types import ParamGroup, StateDict
from .step_hooks import without_hooks

MEMBER = "part"
"""The key under which every parameter group holds the index of the member that updates it. Files contain it."""


class CompositeOptimizer(Optimizer):
    """Optimizers over different parameters, with one state, one list of groups and one step."""

    def __init__(self, members: list[Optimizer]) -> None:
        """Combine `members`, each already built over its own parameters. They share the state of the whole."""
        self._members = members
        first = members[0].defaults
        # The defaults of the whole are those that every member knows.
        shared = {name: first[name] for name in first if all(name in member.defaults for member in members)}
        groups = [
            {**_name_pairs(group), MEMBER: index}
            for index, member in enumerate(members)
            for group in member.param_groups
        ]
        super().__init__(groups, shared)
        self._share_state()

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add a group to the member at the index under its key `part`, or to the first without that key.

        Raises:
            ValueError: There is no member at this index.
        """
        if not 0 <= param_group.setdefault(MEMBER, 0) < len(self._members):
            raise ValueError(f"{MEMBER}: must be from 0 to {len(self._members) - 1}; got {param_group[MEMBER]}")
        member = self._members[param_group[MEMBER]]
        super().add_param_group({**member.defaults, **param_group})
        if self.__dict__.get("_shared"):
            self._share_state()

    def owner_of(self, group: ParamGroup) -> Optimizer:
        """Return the member that updates `group`."""
        index: int = group[MEMBER]
        return self._members[index]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch's overloads
        """Update all parameters.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The loss, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self._members:
            step_without_hooks(member)
        return loss

    def __setstate__(self, state: StateDict) -> None:
        super().__setstate__(state)
        self._share_state()

    def _share_state(self) -> None:
        """Give the members their groups and the state, which are replaced when a state is loaded."""
        for index, member in enumerate(self._members):
            groups = [group for group in self.param_groups if group[MEMBER] == index]
            member.__setstate__({"state": self.state, "param_groups": groups})
        self._shared = True


def _name_pairs(group: ParamGroup) -> ParamGroup:
    """Return a group with (name, parameter) pairs as `params`, if it has names: an optimizer takes them so."""
    if "param_names" not in group:
        return group
    named = list(zip(group["param_names"], group["params"], strict=True))
    return {**{name: value for name, value in group.items() if name != "param_names"}, "params": named}


def owner_of(optimizer: Optimizer, group: ParamGroup) -> Optimizer:
    """Return the optimizer that updates `group`: `optimizer` itself, or one of its members."""
    return optimizer.owner_of(group) if isinstance(optimizer, CompositeOptimizer) else optimizer


def step_without_hooks(optimizer: Optimizer) -> None:
    """Take a step of `optimizer` without the hooks around it."""
    # The class's step calls the hooks that are registered for all optimizers, which the composite calls already.
    without_hooks(type(optimizer).step)(optimizer)
