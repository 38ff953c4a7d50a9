"""Options of policies: each spelling has an effect, and each mistake has an error with its path."""

from typing import NotRequired, TypedDict, Unpack

import pytest
import torch
from pydantic import ValidationError
from sample_demonstrations import ACTION, COMPONENTS, EFFORT, IMAGE, STATE, WIRING, Demonstrations

from optimizer.config import PositiveCount, construct
from trainer import ConfigError, TensorSplit
from trainer.config.entries import ComponentConfig, ObjectiveConfig
from trainer.interfaces.features import FeatureType
from trainer.reporting.registry_listing import description

PATH = "train.objective.params"
SHAPES = {STATE: [3], IMAGE: [3, 8, 8]}


def prepared(data=None, **params):
    """Return a policy that was prepared for the sample components, and for `data` or the sample data."""
    policy = ObjectiveConfig(type="behaviour_cloning", params=params).make("train.objective")
    components = {name: ComponentConfig(**config).make(name) for name, config in COMPONENTS.items()}
    policy.prepare(torch.nn.ModuleDict(components).eval(), data or Demonstrations())
    return policy


def modes_of(**params):
    return prepared(wiring=WIRING, **params).state_dict()["modes"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["MEAN_STD", "MEAN_STD", "MEAN_STD"]),
        ({"normalization_mapping": {"VISUAL": "IDENTITY", "ACTION": "MIN_MAX"}}, ["IDENTITY", "MEAN_STD", "MIN_MAX"]),
        ({"normalization_mapping": {"STATE": "MIN_MAX", STATE: "QUANTILES"}}, ["MEAN_STD", "QUANTILES", "MEAN_STD"]),
        (
            {"normalization_mapping": {"STATE": "MIN_MAX"}, "input_normalization_modes": {STATE: "identity"}},
            ["MEAN_STD", "IDENTITY", "MEAN_STD"],
        ),
        (
            {"input_normalization_modes": {IMAGE: "min_max"}, "output_normalization_modes": {ACTION: "quantile10"}},
            ["MIN_MAX", "MEAN_STD", "QUANTILE10"],
        ),
        ({"normalization_mapping": {"ENV": "MIN_MAX"}}, ["MEAN_STD", "MEAN_STD", "MEAN_STD"]),
    ],
)
def test_modes_are_named_by_type_or_by_feature(params, expected):
    assert modes_of(**params) == dict(zip((IMAGE, STATE, ACTION), expected, strict=True))


def test_input_features_change_the_type_of_a_feature():
    features = {STATE: {"type": "ENV", "shape": [3]}, IMAGE: {"type": "VISUAL", "shape": [3, 8, 8]}}
    policy = prepared(wiring=WIRING, input_features=features, normalization_mapping={"ENV": "IDENTITY"})
    assert policy.features[STATE].type is FeatureType.ENV
    assert policy.state_dict()["modes"][STATE] == "IDENTITY"


def test_features_of_the_options_serve_data_without_features():
    data = Demonstrations()
    data.features = {}
    inputs = {STATE: {"type": "STATE", "shape": [3]}, IMAGE: {"type": "VISUAL", "shape": [3, 8, 8]}}
    output = {ACTION: {"type": "ACTION", "shape": [2]}}
    policy = prepared(data, wiring=WIRING, input_features=inputs, output_features=output)
    assert list(policy.features) == [IMAGE, STATE, ACTION]


def test_shapes_are_checked_against_the_data():
    policy = prepared(wiring=WIRING, input_shapes=SHAPES, output_shapes={ACTION: [2]})
    assert policy.features[STATE].shape == (3,)


def test_another_action_is_predicted():
    lines = [WIRING[0], "actions = head(seen)", f"force = embedder({STATE})"]
    policy = prepared(wiring=lines, action=EFFORT, output_normalization_modes={EFFORT: "MIN_MAX"})
    assert list(policy.features) == [IMAGE, STATE, EFFORT]
    assert policy.features[EFFORT].type is FeatureType.ACTION  # which no environment has to show


MISTAKES = {
    "two spellings of the inputs": (
        {"input_shapes": SHAPES, "input_features": {}},
        [f"{PATH}.input_features and {PATH}.input_shapes"],
    ),
    "two spellings of the action": (
        {"output_shapes": {ACTION: [2]}, "output_features": {}},
        [f"{PATH}.output_features and {PATH}.output_shapes"],
    ),
    "two modes of an input": (
        {"normalization_mapping": {STATE: "MIN_MAX"}, "input_normalization_modes": {STATE: "MIN_MAX"}},
        [f"{PATH}.input_normalization_modes.{STATE}", f"{PATH}.normalization_mapping.{STATE}"],
    ),
    "an unknown mode": ({"normalization_mapping": {"STATE": "MINMAX"}}, ["normalization_mapping.STATE", "MIN_MAX"]),
    "an unknown type or name": (
        {"normalization_mapping": {"STATES": "MIN_MAX"}},
        [f"{PATH}.normalization_mapping.STATES", "did you mean 'STATE'"],
    ),
    "a mode of a feature that is not read": (
        {"input_normalization_modes": {EFFORT: "MIN_MAX"}},
        [f"{PATH}.input_normalization_modes.{EFFORT}", "the wiring does not read it"],
    ),
    "a mode of another output": (
        {"output_normalization_modes": {STATE: "MIN_MAX"}},
        [f"{PATH}.output_normalization_modes.{STATE}", "predicts 'action'"],
    ),
    "the action as an input": ({"input_shapes": {**SHAPES, ACTION: [2]}}, [f"{PATH}.input_shapes.{ACTION}"]),
    "a shape that the data do not have": (
        {"input_shapes": {**SHAPES, STATE: [4]}},
        [f"{PATH}.input_shapes.{STATE}", "[3]", "got [4]"],
    ),
    "a shape of the action that the data do not have": (
        {"output_features": {ACTION: {"type": "ACTION", "shape": [4]}}},
        [f"{PATH}.output_features.{ACTION}.shape", "[2]", "got [4]"],
    ),
    "an unknown feature": (
        {"input_shapes": {**SHAPES, "observation.stat": [3]}},
        [f"{PATH}.input_shapes.observation.stat", f"did you mean '{STATE}'"],
    ),
    "an input that is left out": ({"input_shapes": {IMAGE: [3, 8, 8]}}, [f"{PATH}.input_shapes", f"{STATE!r} too"]),
    "an unknown key of a feature": (
        {"input_features": {STATE: {"type": "STATE", "shapes": [3]}}},
        ["shapes", "did you mean 'shape'"],
    ),
    "an input of a type that cannot be read": (
        {"input_features": {STATE: {"type": "REWARD", "shape": [3]}}},
        [f"{PATH}.input_features.{STATE}.type", "STATE or VISUAL", "got REWARD"],
    ),
    "an action of another type": (
        {"output_features": {ACTION: {"type": "STATE", "shape": [2]}}},
        [f"{PATH}.output_features.{ACTION}.type", "must be ACTION", "got STATE"],
    ),
    "an action that is read": (
        {"action": EFFORT, "wiring": [*WIRING[:2], f"actions = head(seen, felt, {EFFORT})"]},
        [f"{PATH}.wiring", f"{EFFORT!r} is neither"],
    ),
    "more actions than there are": ({"n_action_steps": 4}, [f"{PATH}.n_action_steps", "at most 3", "got 4"]),
    "an ensemble of several actions": (
        {"n_action_steps": 2, "temporal_ensemble_coeff": 0.01},
        [f"{PATH}.n_action_steps", "must be 1", "got 2"],
    ),
    "an unknown action": ({"action": "actions"}, [f"{PATH}.action", "no feature 'actions'"]),
    "an unknown option": ({"n_action_step": 1}, ["n_action_step", "did you mean 'n_action_steps'"]),
    "no wiring": (
        {"wiring": []},
        [f"{PATH}.wiring: required", f"- backbone_tokens = backbone({STATE})", "actions = head("],
    ),
    "an unknown input": (
        {"wiring": [*WIRING[:1], "felt = embedder(observation.stats)", WIRING[2]]},
        [f"{PATH}.wiring", "'observation.stats'", STATE],
    ),
    "the action wired in": (
        {"wiring": [*WIRING[:2], "actions = head(seen, felt, action)"]},
        [f"{PATH}.wiring", "'action'"],
    ),
    "no feature": ({"wiring": ["a = backbone()", "b = embedder(a)", "actions = head(b)"]}, [f"{PATH}.wiring", STATE]),
    "a component that is not used": ({"wiring": [WIRING[0], "actions = head(seen)"]}, [f"{PATH}.wiring", "'embedder'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_path(mistake):
    params, texts = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:  # noqa: PT011  a ConfigError, or the config's own
        prepared(**{"wiring": WIRING, **params})
    for text in texts:
        assert text in str(error.value), str(error.value)


def test_a_wiring_that_ends_in_another_shape_is_named():
    policy = prepared(wiring=[WIRING[0], f"felt = embedder({STATE})", "actions = head(seen, felt)"])
    head = torch.nn.ModuleDict({"backbone": torch.nn.Identity(), "embedder": torch.nn.Identity(), "head": Wrong()})
    with pytest.raises(ConfigError, match=r"wiring: its last result must be the actions, \[5, 3, 2\].*got \[5, 3, 4\]"):
        policy.losses(head, Demonstrations().train.batch(torch.arange(5)))


class Wrong(torch.nn.Module):
    def forward(self, *inputs):
        return torch.zeros(len(inputs[0]), 3, 4)


def test_an_observation_without_an_input_is_named():
    policy = prepared(wiring=WIRING)
    with pytest.raises(ConfigError, match=f"reads '{IMAGE}'.*not in the observation: {STATE}"):
        policy.actions(torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1)}), {STATE: torch.zeros(1, 2, 3)})


def test_an_observation_of_another_shape_is_named():
    policy = prepared(wiring=WIRING)
    observation = {STATE: torch.zeros(1, 2, 3), IMAGE: torch.zeros(1, 2, 3, 9, 8)}
    with pytest.raises(ConfigError, match=rf"'{IMAGE}' of shape \[2, 3, 8, 8\].*has \[2, 3, 9, 8\]"):
        policy.actions(torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1)}), observation)


def test_samples_of_another_shape_than_the_features_are_refused():
    data = Demonstrations()
    batch = data.train.batch(torch.arange(4))
    data.train = TensorSplit({**batch, IMAGE: batch[IMAGE][..., :6]})
    with pytest.raises(ConfigError, match=rf"'{IMAGE}' has shape \[3, 8, 8\].*\[2, 3, 8, 6\]"):
        prepared(data, wiring=WIRING)


def test_describe_shows_the_options_that_policies_share():
    text = description("behaviour_cloning")
    assert "loss: 'l1' | 'mse' | 'smooth_l1', default 'l1'" in text
    assert "n_action_steps: integer (>= 1) | null, optional" in text
    assert "{observation.image: mean_std}" in text


class Shared(TypedDict):
    """Options, one of which has no default."""

    size: PositiveCount
    scale: NotRequired[float]


class Sized:
    def __init__(self, name: str = "", **options: Unpack[Shared]) -> None:
        self.options = options


def test_an_option_that_a_typed_dict_requires_is_required():
    assert construct(Sized, {"size": 3}).options == {"size": 3}
    assert construct(Sized, {"size": "3", "scale": 2}).options == {"size": 3, "scale": 2.0}
    with pytest.raises(ValidationError, match="size"):
        construct(Sized, {"scale": 2.0})
