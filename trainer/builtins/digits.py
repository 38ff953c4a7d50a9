"""`digits`: the 1,797 handwritten digits that scikit-learn brings."""

from typing import Annotated

import torch
from pydantic import Field

from ..errors import missing_extra
from ..interfaces.dataset import DATASET_REGISTRY, DataSet, TensorSplit


@DATASET_REGISTRY.register("digits")
class Digits(DataSet):
    """8 x 8 grey images of handwritten digits.

    Batches hold `image` (N, 8, 8) in 0..1, `profile` (N, 16), the ink of each row and column, and `label` (N), int64
    in 0..9. Source: Alpaydin & Kaynak 1998, UCI.

    Args:
        held_out_fraction: Share of the samples that is held out.
        split_seed: Seed of the choice of these samples.

    Raises:
        ConfigError: scikit-learn is not installed.
    """

    def __init__(
        self,
        held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        split_seed: int = 0,
    ) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise missing_extra("the data set `digits`", "scikit-learn", "data") from error
        pixels, labels = load_digits(return_X_y=True)
        image = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 8, 8) / 16
        tensors = {
            "image": image,
            "profile": torch.cat([image.mean(1), image.mean(2)], dim=1),
            "label": torch.as_tensor(labels, dtype=torch.int64),
        }
        order = torch.randperm(len(image), generator=torch.Generator().manual_seed(split_seed))
        held_out, train = torch.tensor_split(order, [round(len(image) * held_out_fraction)])
        self.train = TensorSplit({name: tensor[train] for name, tensor in tensors.items()})
        self.held_out = TensorSplit({name: tensor[held_out] for name, tensor in tensors.items()})
        self.statistics = {
            "classes": 10,
            "image_mean": float(image[train].mean()),
            "image_std": float(image[train].std()),
        }
