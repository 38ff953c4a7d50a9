"""Schedulers of other libraries, which a config names by dotted path."""

import torch
from torch.optim.lr_scheduler import LRScheduler


class Halving(LRScheduler):
    """A scheduler as a library would bring it."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int, last_epoch: int = -1) -> None:
        if every < 1:
            raise ValueError("every must be positive")
        self.every = every
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base / 2 ** (self.last_epoch // self.every) for base in self.base_lrs]


class Ending(Halving):
    """Knows an end, and raises there, as some do."""

    def __init__(self, optimizer: torch.optim.Optimizer, last: int = 5) -> None:
        self.last = last
        super().__init__(optimizer, every=100)

    def get_lr(self):
        if self.last_epoch > self.last:
            raise ValueError("it is over")
        return super().get_lr()
