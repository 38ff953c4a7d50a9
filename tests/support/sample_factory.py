"""A factory written from the protocol alone: `build(params)`."""

import torch


class Plain:
    def __init__(self, lr: float) -> None:
        self.lr = lr

    def build(self, params):
        return torch.optim.SGD(params, lr=self.lr, momentum=0.9)
