"""Components of policies: the shapes that they take and return, and formulas against plain twins."""

import math

import pytest
import torch
from pydantic import ValidationError

from trainer import ConfigError
from trainer.config.entries import ComponentConfig
from trainer.policies.heads import sinusoids
from trainer.policies.vision import spatial_softmax

CONV = {"width": 8, "keypoints": 4, "dim": 6}
MAPS = {"backbone": {"type": "sample_backbones.Maps", "params": {"channels": 5}}, "out_features": 5, "dim": 6}
VECTORS = {
    "backbone": {"type": "sample_backbones.make_vectors", "params": {"features": 5}},
    "out_features": 5,
    "dim": 6,
}
HEAD = {"action_dim": 2, "chunk": 3, "dim": 8, "depth": 1, "heads": 2, "dropout": 0.0}


def made(kind, **params):
    return ComponentConfig(type=kind, params=params).make("model.components.part").eval()


@pytest.mark.parametrize(
    ("kind", "params", "tokens"),
    [("conv_backbone", CONV, 1), ("vision_backbone", MAPS, 4), ("vision_backbone", VECTORS, 1)],
)
def test_frames_become_tokens_one_time_step_after_the_other(kind, params, tokens):
    backbone, frames = made(kind, **params), torch.rand(2, 3, 3, 8, 8)
    together = backbone(frames)
    assert together.shape == (2, 3 * tokens, 6)
    one_by_one = [backbone(frames[:, step]) for step in range(3)]
    assert all(part.shape == (2, tokens, 6) for part in one_by_one)
    torch.testing.assert_close(together, torch.cat(one_by_one, dim=1))


def test_a_map_becomes_one_token_for_each_place():
    backbone, frame = made("vision_backbone", **MAPS), torch.rand(1, 3, 8, 8)
    places = backbone.backbone(frame)[0]
    expected = [backbone.projection(places[:, row, column]) for row in range(2) for column in range(2)]
    torch.testing.assert_close(backbone(frame)[0], torch.stack(expected))


def test_a_backbone_may_be_a_registered_component():
    params = {"backbone": {"type": "conv_backbone", "params": CONV}, "out_features": 1}
    assert made("vision_backbone", **params).backbone(torch.rand(2, 3, 8, 8)).shape == (2, 1, 6)


def test_pooling_averages_squares_of_pixels():
    torch.manual_seed(0)
    pooled = made("conv_backbone", pool=2, **CONV)
    plain = made("conv_backbone", pool=1, **CONV)
    plain.load_state_dict(pooled.state_dict())
    small = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(pooled(small.repeat_interleave(2, -1).repeat_interleave(2, -2)), plain(small))


def test_spatial_softmax_is_the_mean_position():
    maps = torch.randn(2, 3, 4, 5)
    expected = torch.zeros(2, 6)
    for sample in range(2):
        for index in range(3):
            total = sum(math.exp(value) for value in maps[sample, index].flatten())
            for row in range(4):
                for column in range(5):
                    weight = math.exp(maps[sample, index, row, column]) / total
                    expected[sample, index] += weight * (-1 + 2 * column / 4)
                    expected[sample, 3 + index] += weight * (-1 + 2 * row / 3)
    torch.testing.assert_close(spatial_softmax(maps), expected)


def test_the_transformer_takes_vectors_and_tokens_in_order():
    head = made("action_transformer", **HEAD)
    vector, tokens = torch.randn(4, 8), torch.randn(4, 2, 8)
    actions = head(vector, tokens)
    assert actions.shape == (4, 3, 2)
    torch.testing.assert_close(head(torch.cat([vector.unsqueeze(1), tokens], dim=1)), actions)
    torch.testing.assert_close(head(vector[:1], tokens[:1]), actions[:1])
    assert not torch.allclose(head(tokens.flip(1), vector), actions, atol=1e-3)


def test_positions_are_sines_and_cosines():
    found = sinusoids(torch.arange(5), 6)
    for position in range(5):
        angles = [position / 10_000 ** (index / 3) for index in range(3)]
        expected = [*map(math.sin, angles), *map(math.cos, angles)]
        assert found[position].tolist() == pytest.approx(expected, abs=1e-6)


def test_fourier_features_are_cosines_and_sines_of_projections():
    encoder, position = made("fourier_features", in_features=3, dim=6, scale=0.5), torch.randn(2, 5, 3)
    encoded = encoder(position)
    assert encoded.shape == (2, 5, 6)
    for index, row in enumerate(encoder.frequencies.tolist()):
        angle = 2 * math.pi * sum(weight * value for weight, value in zip(row, position[1, 4].tolist(), strict=True))
        assert encoded[1, 4, index].item() == pytest.approx(math.cos(angle), abs=1e-5)
        assert encoded[1, 4, 3 + index].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_fourier_features_keep_fine_differences_under_autocast():
    encoder, position = made("fourier_features", in_features=3), torch.randn(7, 3)
    expected = encoder(position)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(position), expected)


def test_the_perceptron_takes_any_shapes():
    head = made("action_mlp", in_features=10, action_dim=2, chunk=3, hidden=[4])
    inputs = [torch.randn(5, 2, 3), torch.randn(5, 1, 4)]
    flat = torch.cat([value.reshape(5, -1) for value in inputs], dim=1)
    assert torch.equal(head(*inputs), head.layers(flat).reshape(5, 3, 2))


@pytest.mark.parametrize(
    ("kind", "params", "text"),
    [
        ("action_transformer", {**HEAD, "heads": 3}, "multiple of heads; got 8 for 3"),
        ("conv_backbone", {"width": 12}, "multiple of 8; got 12"),
        ("vision_backbone", {**MAPS, "backbone": {"type": "sample_backbones.make_nothing"}}, "got a NoneType"),
    ],
)
def test_a_component_that_cannot_be_built_is_named(kind, params, text):
    with pytest.raises(ConfigError, match=f"model.components.part.*{text}"):
        made(kind, **params)


@pytest.mark.parametrize(
    ("backbone", "path", "text"),
    [
        ({"type": "sample_backbones.Map"}, ("type",), "did you mean 'Maps'"),
        ({"type": "conv_backbon"}, ("type",), "did you mean 'conv_backbone'"),
        ({"type": "sample_backbones.Maps", "params": {"channel": 1}}, ("params", "channel"), "did you mean 'channels'"),
    ],
)
def test_a_wrong_backbone_is_named_before_anything_is_built(backbone, path, text):
    with pytest.raises(ValidationError) as error:
        ComponentConfig(type="vision_backbone", params={**MAPS, "backbone": backbone})
    last = error.value.errors()[-1]
    assert last["loc"] == ("params", "backbone", *path)
    assert text in last["msg"]
    assert "Value error" not in last["msg"]


def test_a_backbone_of_another_width_is_named():
    backbone = made("vision_backbone", **{**VECTORS, "out_features": 4})
    with pytest.raises(ValueError, match=r"out_features = 4, …\); got shape \[2, 5\]"):
        backbone(torch.rand(2, 3, 8, 8))


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="at most 1024 tokens; got 1025"):
        made("action_transformer", **HEAD)(torch.zeros(1, 1025, 8))
