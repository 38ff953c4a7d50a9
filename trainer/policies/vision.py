"""Components that turn frames into tokens."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from optimizer import UnknownKeyError
from optimizer.config import Config, PositiveCount, check_arguments, construct, function_at, nest

from ..interfaces.component import MODEL_REGISTRY

Size = PositiveCount

_GROUPS = 8


@MODEL_REGISTRY.register("conv_backbone")
class ConvBackbone(nn.Module):
    """A small convolutional network that finds keypoints in frames.

    (N, T, channels, H, W) or (N, channels, H, W) -> one token a frame, (N, T, dim) or (N, 1, dim). Each keypoint is the
    mean position of one map's activation (spatial softmax). Source: Levine et al. 2016, arXiv:1504.00702. GroupNorm
    needs no running statistics, so that averaged weights can be used as they are.

    Args:
        channels: Channels of a frame.
        width: Channels of the first layers, a multiple of 8.
        keypoints: Number of keypoints.
        dim: Width of a token.
        pool: Side in pixels of the squares over which a frame is averaged before the first layer; 1: none.

    Raises:
        ValueError: The width is not a multiple of 8.
    """

    def __init__(
        self, channels: Size = 3, width: Size = 16, keypoints: Size = 32, dim: Size = 128, pool: Size = 2
    ) -> None:
        super().__init__()
        if width % _GROUPS:
            raise ValueError(f"width must be a multiple of {_GROUPS}; got {width}")
        self._pool = pool
        self.maps = nn.Sequential(
            *_conv(channels, width, stride=2),
            *_conv(width, width, stride=2),
            *_conv(width, 2 * width, stride=1),
            nn.Conv2d(2 * width, keypoints, 1),
        )
        self.projection = nn.Linear(2 * keypoints, dim)

    def forward(self, frames: Tensor) -> Tensor:
        images = frames.flatten(0, -4)
        keypoints = spatial_softmax(self.maps(F.avg_pool2d(images, self._pool) if self._pool > 1 else images))
        tokens: Tensor = self.projection(keypoints)
        return tokens.view(frames.shape[0], -1, tokens.shape[1])


class BackboneConfig(Config):
    """A vision module: a component's key or a dotted path, and arguments."""

    type: str
    """A component's key, or the dotted path of a class or a function: `torchvision.models.resnet18`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class or the function."""

    @field_validator("type")
    @classmethod
    def _check_type(cls, path: str) -> str:
        try:
            _maker(path)
        except ValueError as error:
            raise PydanticCustomError("backbone", "{reason}", {"reason": str(error)}) from None
        return path

    @model_validator(mode="after")
    def _check_params(self) -> Self:
        maker = _maker(self.type)
        if isinstance(maker, type):
            try:
                check_arguments(maker, self.params)
            except ValidationError as error:
                raise nest(error, ("params",)) from None
        return self

    def make(self) -> nn.Module:
        """Return a new module.

        Raises:
            ValueError: The function returns something else.
        """
        maker = _maker(self.type)
        made = construct(maker, self.params) if isinstance(maker, type) else maker(**self.params)
        if not isinstance(made, nn.Module):
            raise ValueError(f"backbone.type: {self.type} must return an nn.Module; got a {type(made).__name__}")
        return made


def _maker(path: str) -> Callable[..., object]:
    """Return the class or function at a key or a dotted path. Raises ValueError if there is none."""
    if "." in path:
        return function_at(path)
    try:
        return MODEL_REGISTRY[path]
    except UnknownKeyError as error:
        raise ValueError(str(error)) from None


@MODEL_REGISTRY.register("vision_backbone")
class VisionBackbone(nn.Module):
    """Any vision module, whose output becomes tokens.

    (N, T, channels, H, W) or (N, channels, H, W) -> (N, T * k, dim). The module takes (N * T, channels, H, W) and
    returns vectors (N * T, out_features), so that k = 1, or maps (N * T, out_features, h, w), so that k = h * w.

    Args:
        backbone: The module: `{type: torchvision.models.resnet18, params: {num_classes: 128}}`.
        out_features: Width of the vectors, or channels of the maps.
        dim: Width of a token.

    Raises:
        ValueError: `backbone.type` returns something else than a module.
    """

    def __init__(self, backbone: BackboneConfig, out_features: Size, dim: Size = 128) -> None:
        super().__init__()
        self.backbone = backbone.make()
        self._out_features = out_features
        self.projection = nn.Linear(out_features, dim)

    def forward(self, frames: Tensor) -> Tensor:
        output = self.backbone(frames.flatten(0, -4))
        if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[1] != self._out_features:
            got = f"shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"the backbone must return (N, out_features = {self._out_features}, …); got {got}")
        tokens: Tensor = self.projection(output.flatten(2).transpose(1, 2) if output.dim() > 2 else output)
        return tokens.reshape(frames.shape[0], -1, tokens.shape[-1])


def spatial_softmax(maps: Tensor) -> Tensor:
    """Return the mean position of each map, weighted by the softmax of its values.

    Args:
        maps: (N, K, H, W).

    Returns:
        (N, 2 K): the horizontal positions, then the vertical ones, in -1..1.
    """
    weights = maps.flatten(2).softmax(dim=2).view_as(maps)
    rows, columns = (torch.linspace(-1, 1, size, device=maps.device, dtype=maps.dtype) for size in maps.shape[2:])
    return torch.cat([weights.sum(dim=2) @ columns, weights.sum(dim=3) @ rows], dim=1)


def _conv(channels: int, width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, stride, padding=1), nn.GroupNorm(_GROUPS, width), nn.ReLU()]
