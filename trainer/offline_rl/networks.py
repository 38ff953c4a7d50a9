"""Components for offline reinforcement learning, beside `mlp`."""

import torch
from torch import Tensor, nn

from optimizer.config import PositiveCount

from ..builtins.modules import MLP
from ..interfaces.component import MODEL_REGISTRY

LOWEST_LOG_STD, HIGHEST_LOG_STD = -5.0, 2.0
"""Those of IQL's own code."""


@MODEL_REGISTRY.register("gaussian_mlp")
class GaussianMLP(nn.Module):
    """A multi-layer perceptron to a Gaussian policy: any number of (N, …) -> mean and log_std, each (N, out_features).

    The mean goes through tanh, the standard deviation is learned and does not depend on the input.

    Args:
        in_features: Numbers that come in for a sample, over all inputs.
        out_features: Size of an action.
        hidden: Widths of the hidden layers, with ReLU; left out, two of 256.
    """

    def __init__(
        self, in_features: PositiveCount, out_features: PositiveCount, hidden: list[PositiveCount] | None = None
    ) -> None:
        super().__init__()
        widths = [256, 256] if hidden is None else hidden
        self.mean = MLP(in_features, out_features, widths, activation="relu", tanh=True)
        self.log_std = nn.Parameter(torch.zeros(out_features))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean: Tensor = self.mean(*inputs)
        return mean, self.log_std.clamp(LOWEST_LOG_STD, HIGHEST_LOG_STD).expand_as(mean)
