"""Random transforms of frames for training, by dotted path."""

from collections.abc import Callable, Sequence

from torch import Tensor

from optimizer.types import JsonObject


def make_transforms(specs: Sequence[JsonObject], shape: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """Return the function that applies transforms one after another to each sample of a batch.

    Args:
        specs: `{type: dotted path of a class, params: its arguments}` each.
        shape: Of a frame: 3, height, width. The transforms are tried on one.

    Returns:
        A function of uint8 frames (N, T, 3, H, W) that returns float32 frames (N, T, 3, H, W), in 0..1 before the
        transforms. Random numbers come from the global generators.

    Raises:
        ConfigError: A transform cannot be built, fails on a frame, or changes its shape or dtype.
    """
    raise NotImplementedError
