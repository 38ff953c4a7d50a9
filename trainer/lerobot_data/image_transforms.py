"""Random transforms of frames for training, by dotted path."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from optimizer import Registry, UnknownKeyError
from optimizer.config import Config, construct, explain, function_at, nest
from optimizer.types import JsonObject

from ..errors import ConfigError, raised
from ..runtime.rng import separate_rng

FIELD = "data.params.image_transforms"
"""The place of the list in a config."""


@runtime_checkable
class ImageTransform(Protocol):
    """Transforms the frames of one sample."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Return frames of the same shape, float32.

        Args:
            frames: The steps of one sample, float32 (T, 3, H, W) in 0..1.
        """
        ...


IMAGE_TRANSFORM_REGISTRY: Registry[ImageTransform] = Registry(
    "image transform", ImageTransform, entry_points="innerstep.image_transforms"
)
"""Classes of transforms: kornia's, torchvision's and a user's by their dotted paths."""


class TransformChoice(Config):
    """An entry of the list: a class or a function, and its parameters."""

    type: str
    """Dotted path of a class whose objects are called with frames, such as `kornia.augmentation.ColorJiggle`, or of a
    function that is."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class, or arguments of the function beside the frames."""


def make_transforms(specs: Sequence[JsonObject], shape: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """Return the function that applies transforms one after another to each sample of a batch.

    A transform sees the steps of one sample as a batch of frames. Whether all get the same change is its own affair:
    torchvision's classes do that, kornia's with `same_on_batch: true`. Random numbers come from the global generators.

    Args:
        specs: `{type: dotted path of a class or a function, params: its arguments}` each.
        shape: Of a frame: 3, height, width. The transforms are tried on one.

    Returns:
        A function of uint8 frames (N, T, 3, H, W) that returns float32 frames (N, T, 3, H, W), which were in 0..1
        before the transforms. It can be sent to worker processes if the transforms can.

    Raises:
        ConfigError: A transform cannot be built, fails on a frame, or changes its shape or dtype.
    """
    transforms = [_make(index, spec) for index, spec in enumerate(specs)]
    frame = torch.linspace(0, 1, shape[1] * shape[2]).expand(3, -1).reshape(1, *shape)
    with separate_rng(0):
        for index, (name, transform) in enumerate(transforms):
            try:
                frame = _checked(name, transform(frame), frame)
            except ValueError as error:
                raise ConfigError(f"{FIELD}.{index}: {error}") from error
            except Exception as error:  # code of the user's, or of a library
                raise ConfigError(f"{FIELD}.{index}: {name} fails on a frame {shape}: {raised(error)}") from error
    return _Transforms(transforms)


class _Transforms:
    """Applies transforms to each sample of a batch."""

    def __init__(self, transforms: Sequence[tuple[str, ImageTransform]]) -> None:
        self._transforms = transforms

    def __call__(self, frames: Tensor) -> Tensor:
        samples = []
        for sample in frames.float().div_(255):
            for name, transform in self._transforms:
                sample = _checked(name, transform(sample), sample)
            samples.append(sample)
        return torch.stack(samples)


def _make(index: int, spec: JsonObject) -> tuple[str, ImageTransform]:
    """Return the name and the object of an entry of the list."""
    path: tuple[str | int, ...] = (*FIELD.split("."), index)
    try:
        choice = TransformChoice.model_validate(spec)
        if (function := _function_at(choice.type)) is not None:
            return choice.type, partial(function, **choice.params)
        chosen = IMAGE_TRANSFORM_REGISTRY[choice.type]
        path = (*path, "params")
        return choice.type, construct(chosen, choice.params)
    except UnknownKeyError as error:
        raise ConfigError(f"{FIELD}.{index}.type: {error}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(explain(nest(error, path)))) from error
    except Exception as error:  # a constructor of the user's, or of a library
        raise ConfigError(f"{FIELD}.{index}.params: {spec['type']} cannot be built: {raised(error)}") from error


def _function_at(path: str) -> Callable[..., Any] | None:
    """Return the function at a dotted path; None if there is something else, or nothing."""
    with suppress(ValueError):
        found = function_at(path)
        return None if isinstance(found, type) else found
    return None


def _checked(name: str, result: object, frames: Tensor) -> Tensor:
    """Return the result of a transform of `frames`, checked.

    Raises:
        ValueError: It is not a float32 tensor of the same shape.
    """
    if not isinstance(result, Tensor):
        raise ValueError(f"{name} must return a tensor; it returns a {type(result).__name__}")
    if result.shape != frames.shape or result.dtype != torch.float32:
        given, made = (f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.") for tensor in (frames, result))
        raise ValueError(f"{name} must return frames of the same shape, float32; it makes {made} of {given}")
    return result.detach()
