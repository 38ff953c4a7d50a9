"""A scheduler object for tools that insist on one: it reports the lr, and moves nothing."""

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from .optimizer import ScheduledOptimizer


class ReadOnlyScheduler(LRScheduler):
    """A scheduler object for tools that require one: it reports the schedule inside `optimizer` and moves nothing.

    `step()` does nothing, as the optimizer's own step moves the schedule. Its state is empty: the optimizer's state
    holds the position.

    Raises:
        ValueError: The optimizer has no schedule inside.

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY, ReadOnlyScheduler
        >>> factory = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.1, schedule={"type": "linear", "num_training_steps": 4})
        >>> optimizer = factory.build(torch.nn.Linear(2, 1))
        >>> scheduler = ReadOnlyScheduler(optimizer)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.last_epoch, round(scheduler.get_last_lr()[0], 4)
        (1, 0.075)
    """

    def __init__(self, optimizer: ScheduledOptimizer) -> None:
        # The base class's constructor would attach a schedule of its own to the optimizer.
        if not isinstance(optimizer, ScheduledOptimizer):
            raise ValueError(f"{type(optimizer).__name__} has no schedule inside that a stand-in could report")
        self.optimizer = optimizer
        self._scheduled = optimizer  # the same, by its own type

    @property
    def last_epoch(self) -> int:  # type: ignore[override]  # an attribute there, which follows the optimizer here
        """Updates done."""
        return self._scheduled.scheduler.last_epoch

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]  # likewise
        """Each group's own lr."""
        return self._scheduled.scheduler.base_lrs

    def get_lr(self) -> list[Any]:
        """Return each group's lr for the coming update."""
        return self.get_last_lr()

    def get_last_lr(self) -> list[Any]:
        """Return each group's lr for the coming update."""
        return self._scheduled.scheduler.get_last_lr()

    def step(self, epoch: Any = None) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the state is in the optimizer's."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing: the optimizer's state restores it. Raises ValueError for the state of a real scheduler."""
        if state_dict:
            raise ValueError("a stand-in has no state; the schedule is restored with the optimizer's state")
