"""Any optimizer class with ScheduledOptimizer mixed in."""

from functools import cache

from torch.optim import Optimizer

from .optimizer import ScheduledOptimizer


def scheduled(optimizer_class: type[Optimizer]) -> type[ScheduledOptimizer]:
    """Return `optimizer_class` with ScheduledOptimizer mixed in; call `embed` on its instances.

    Examples:
        >>> import torch
        >>> from optimizer import SCHEDULE_REGISTRY, scheduled
        >>> schedule = SCHEDULE_REGISTRY["linear"](num_training_steps=4)
        >>> optimizer = scheduled(torch.optim.SGD)(torch.nn.Linear(2, 1).parameters(), lr=0.1).embed(schedule)
        >>> optimizer.step()
        >>> round(optimizer.param_groups[0]["lr"], 4)
        0.075
    """
    if issubclass(optimizer_class, ScheduledOptimizer):
        return optimizer_class
    return _mixed_class(optimizer_class)  # type: ignore[arg-type]  # to mypy an Optimizer type is not hashable


@cache
def _mixed_class(optimizer_class: type[Optimizer]) -> type[ScheduledOptimizer]:
    def reduce(optimizer: ScheduledOptimizer, protocol: int) -> object:
        if type(optimizer) is not mixed:  # a subclass, which has an import path
            return super(mixed, optimizer).__reduce_ex__(protocol)  # type: ignore[arg-type]  # pickle's, a plain number
        return _new_instance, (optimizer_class,), optimizer.__getstate__()

    values = {"__module__": __name__, "__reduce_ex__": reduce}  # pickle cannot find the class by an import path
    mixed = type(f"Scheduled{optimizer_class.__name__}", (ScheduledOptimizer, optimizer_class), values)
    return mixed


def _new_instance(optimizer_class: type[Optimizer]) -> ScheduledOptimizer:
    cls = scheduled(optimizer_class)
    return cls.__new__(cls)
