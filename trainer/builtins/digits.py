"""`digits`: the 1,797 handwritten digits in digits.csv.gz."""

import gzip
from importlib.resources import files
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ..interfaces.dataset import DATASET_REGISTRY, DataSet, TensorSplit


@DATASET_REGISTRY.register("digits")
class Digits(DataSet):
    """8 x 8 grey images of handwritten digits.

    Batches hold `image` (N, 8, 8) in 0..1, `profile` (N, 16), the ink of each row and column, and `label` (N), int64
    in 0..9. Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", the test set, UCI Machine
    Learning Repository, doi:10.24432/C50P49, CC BY 4.0.

    Args:
        held_out_fraction: Share of the samples that is held out.
        split_seed: Seed of the choice of these samples.
    """

    def __init__(
        self,
        held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        split_seed: int = 0,
    ) -> None:
        table = _table()
        pixels, labels = table[:, :-1], table[:, -1]
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


def _table() -> NDArray[np.uint8]:
    """Return the digits, one a row: 64 pixels in 0..16, and the label."""
    text = gzip.decompress(files(__package__).joinpath("digits.csv.gz").read_bytes())
    return np.array([[*map(int, line.split(b","))] for line in text.split()], np.uint8)
