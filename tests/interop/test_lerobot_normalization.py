"""Normalization is LeRobot's, bit for bit."""

import pytest
import torch
from conftest import needs

from trainer.interfaces.features import Feature, FeatureType
from trainer.policies.normalization import Normalization, NormalizationMode

pytestmark = needs("lerobot")

SHAPES = {
    "observation.state": (FeatureType.STATE, (5,)),
    "observation.images.top": (FeatureType.VISUAL, (3, 4, 6)),
    "observation.environment_state": (FeatureType.ENV, (2,)),
    "action": (FeatureType.ACTION, (4,)),
}


def statistics():
    """Return statistics in which the last column of each feature is constant."""
    found = {}
    for name, (kind, shape) in SHAPES.items():
        size = (shape[0], 1, 1) if kind == FeatureType.VISUAL else shape
        columns = torch.randn(8, *size).sort(dim=0).values
        columns[:, -1] = columns[:1, -1]
        names = ["min", "q01", "q10", "mean", "q90", "q99", "max"]
        found[name] = {**dict(zip(names, columns, strict=False)), "std": columns[7] - columns[0]}
    return found


@pytest.mark.parametrize("mode", NormalizationMode)
def test_each_mode_equals_lerobots_processor_bit_for_bit(mode):
    from lerobot.configs import FeatureType as LerobotType
    from lerobot.configs import NormalizationMode as LerobotMode
    from lerobot.configs import PolicyFeature
    from lerobot.processor.normalize_processor import NormalizerProcessorStep, UnnormalizerProcessorStep

    stats = statistics()
    theirs = {
        "features": {name: PolicyFeature(LerobotType(kind), shape) for name, (kind, shape) in SHAPES.items()},
        "norm_map": {LerobotType(kind): LerobotMode(mode) for kind, _ in SHAPES.values()},
        "stats": {name: {key: value.numpy() for key, value in values.items()} for name, values in stats.items()},
    }
    normalizer, unnormalizer = NormalizerProcessorStep(**theirs), UnnormalizerProcessorStep(**theirs)
    features = {name: Feature(kind, shape) for name, (kind, shape) in SHAPES.items()}
    ours = Normalization(features, dict.fromkeys(features, mode), stats)
    for name, (kind, shape) in SHAPES.items():
        values = torch.randn(7, 2, *shape) * 3
        as_lerobot = normalizer._apply_transform(values, name, LerobotType(kind))
        assert torch.equal(ours(name, values), as_lerobot), name
        back = unnormalizer._apply_transform(as_lerobot, name, LerobotType(kind), inverse=True)
        assert torch.equal(ours.unnormalize(name, as_lerobot), back), name
    frames = torch.randint(0, 256, (7, 2, 3, 4, 6), dtype=torch.uint8)
    name = "observation.images.top"
    as_lerobot = normalizer._apply_transform(frames.type(torch.float32) / 255, name, LerobotType("VISUAL"))
    assert torch.equal(ours(name, frames), as_lerobot)
