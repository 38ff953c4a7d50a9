"""`schedule_free_radam`: schedulefree's RAdamScheduleFree, which needs neither warm-up nor decay."""

from typing import ClassVar

from schedulefree.radam_schedulefree import RAdamScheduleFree
from torch.optim import Optimizer

from .config.fields import Beta, NonNegativeNumber, PositiveBeta, PositiveNumber
from .factories.base import OPTIMIZER_BUILDER_REGISTRY
from .factories.schedule_free import ExactAveraging, ScheduleFreeFactory


class ExactRAdamScheduleFree(ExactAveraging, RAdamScheduleFree):
    """schedulefree.RAdamScheduleFree with `ExactAveraging`."""


@OPTIMIZER_BUILDER_REGISTRY.register("schedule_free_radam")
class RAdamScheduleFreeFactory(ScheduleFreeFactory):
    """schedulefree.RAdamScheduleFree: RAdam without warm-up or decay; eval() to evaluate and save, then train().

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY
        >>> module = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = OPTIMIZER_BUILDER_REGISTRY["schedule_free_radam"](lr=0.01).build(module)
        >>> for _ in range(10):
        ...     module.weight.grad = torch.ones(1, 1)
        ...     optimizer.step()
        >>> trained = module.weight.item()
        >>> optimizer.eval()  # from the training weights to their average
        >>> module.weight.item() > trained  # the average lags behind
        True
        >>> optimizer.train()  # and back
        >>> abs(module.weight.item() - trained) < 1e-6
        True
    """

    optimizer_class: ClassVar[type[Optimizer]] = ExactRAdamScheduleFree

    lr: PositiveNumber = 0.0025
    """Learning rate."""
    betas: tuple[PositiveBeta, Beta] = (0.9, 0.999)
    """Share of the average in the training weights; decay rate of the running mean of the squared gradient."""
    eps: NonNegativeNumber = 1e-8
    """Added to the denominator."""
    silent_sgd_phase: bool = True
    """Whether the first updates, in which RAdam would be SGD, leave the weights alone."""
