"""Vision modules that a config names by dotted path, as those of another library."""

import torch
from torch import nn


class Maps(nn.Module):
    """Frames (N, 3, H, W) to maps (N, channels, H / 4, W / 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 4, stride=4)

    def forward(self, frames):
        return self.conv(frames)


def make_vectors(features, seed=0):
    """Return a module from frames (N, 3, 8, 8) to vectors (N, features)."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, features))


def make_nothing():
    return None
