"""`fourier_features`: an encoding of positions."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from optimizer.config import PositiveCount, PositiveNumber

from ..interfaces.component import MODEL_REGISTRY


@MODEL_REGISTRY.register("fourier_features")
class FourierFeatures(nn.Module):
    """Random Fourier features: the cosines and sines of `dim` / 2 random projections.

    (…, in_features) -> (…, dim), cos(2πBx) and sin(2πBx). A network learns fine differences of position from them
    faster than from the positions. B is meant to stay random: `freeze: true`. Source: Tancik et al. 2020,
    arXiv:2006.10739.

    Args:
        in_features: Numbers of a position, normalized.
        dim: Numbers of its encoding, even.
        scale: Standard deviation of B: how fine the differences are. Too high, and nothing between the positions of
            the data is learned.
    """

    def __init__(
        self,
        in_features: PositiveCount,
        dim: Annotated[PositiveCount, Field(multiple_of=2)] = 64,
        scale: PositiveNumber = 1.0,
    ) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(dim // 2, in_features) * scale)

    def forward(self, position: Tensor) -> Tensor:
        with torch.autocast(position.device.type, enabled=False):  # half precision would lose the fine differences
            angles = 2 * math.pi * position.float() @ self.frequencies.T
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
