"""The pattern that the library replaces, as a counter-example for its checks."""

import torch
from torch.optim.lr_scheduler import LambdaLR


class Naive(torch.optim.AdamW):
    """A subclass with its own step: update, then step a scheduler. It falls linearly to 0 over `updates`."""

    def __init__(self, params, lr=1e-2, updates=100, **options):
        super().__init__(params, lr=lr, weight_decay=0.0, **options)
        self.scheduler = LambdaLR(self, lambda k: 1 - k / updates)

    def step(self, closure=None):
        loss = super().step(closure)
        self.scheduler.step()
        return loss


class NaiveFactory:
    """Builds it as our factories build theirs."""

    def __init__(self, **options):
        self._options = options

    def build(self, params, horizon=None):
        return Naive(params.named_parameters(), **self._options)
