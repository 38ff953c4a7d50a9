"""A scheduler object for tools that require one: it reports the lr, and moves nothing."""

from torch import Tensor
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
        # The base class's constructor would attach another schedule to the optimizer.
        if not isinstance(optimizer, ScheduledOptimizer):
            raise ValueError(f"{type(optimizer).__name__} has no schedule inside to report")
        self.optimizer = optimizer
        self._scheduled = optimizer  # the same, by its own type

    @property
    def last_epoch(self) -> int:  # type: ignore[override]  # an attribute there, which follows the optimizer here
        """Updates done."""
        return self._scheduled.scheduler.last_epoch

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]  # as above
        """Each group's own lr."""
        return self._scheduled.scheduler.base_lrs

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's lr for the coming update."""
        return self.get_last_lr()

    def get_last_lr(self) -> list[float | Tensor]:
        """Return each group's lr for the coming update."""
        return [*self._scheduled.scheduler.get_last_lr()]

    def step(self, epoch: object = None) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, object]:
        """Return an empty dict: the optimizer's state contains the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Do nothing: the optimizer's state restores the position.

        Raises:
            ValueError: `state_dict` is not empty, as that of a real scheduler.
        """
        if state_dict:
            raise ValueError(
                "a ReadOnlyScheduler has no state: the schedule is restored with the optimizer's state; got"
                f" {', '.join(map(str, state_dict))}"
            )
