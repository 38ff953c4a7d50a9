"""The digits in the package are those that scikit-learn has."""

import torch
from conftest import needs

from trainer.builtins.digits import Digits


def rows(split):
    return split.batch(torch.arange(len(split)))


@needs("sklearn")
def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    image = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 8, 8) / 16
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    data = Digits()
    for split, chosen in ((data.held_out, order[:359]), (data.train, order[359:])):
        found = rows(split)
        assert torch.equal(found["image"], image[chosen])
        assert torch.equal(found["label"], torch.as_tensor(labels)[chosen])
        assert torch.equal(found["profile"], torch.cat([image.mean(1), image.mean(2)], dim=1)[chosen])
    assert data.statistics["image_std"] == float(image[order[359:]].std())


def test_the_digits_have_the_published_counts_of_each_class():
    data = Digits(held_out_fraction=0.5)
    labels = torch.cat([rows(split)["label"] for split in (data.train, data.held_out)])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert rows(data.train)["image"].amax() == 1
