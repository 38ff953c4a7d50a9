"""Schedulers of another library, which tests name by dotted path."""

import torch
from torch.optim.lr_scheduler import LRScheduler


class Halving(LRScheduler):
    """A scheduler as in a library: the lr is halved every so many steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int, last_epoch: int = -1) -> None:
        if every < 1:
            raise ValueError("every must be positive")
        self.every = every
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        return [base / 2 ** (self.last_epoch // self.every) for base in self.base_lrs]


class Ending(Halving):
    """A scheduler that raises after its last step, as some libraries' do."""

    def __init__(self, optimizer: torch.optim.Optimizer, last: int = 5) -> None:
        self.last = last
        super().__init__(optimizer, every=100)

    def get_lr(self):
        if self.last_epoch > self.last:
            raise ValueError("it is over")
        return super().get_lr()
