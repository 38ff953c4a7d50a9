"""Behaviour cloning: its loss, its actions, its state, and runs."""

import json

import pytest
import torch
from sample_demonstrations import ACTION, COMPONENTS, EFFORT, IMAGE, STATE, WIRING, Demonstrations, policy_config

from trainer import TensorSplit, check_resumes, train
from trainer.config.entries import ComponentConfig, ObjectiveConfig
from trainer.interfaces.features import Feature, FeatureType

DISTANCES = {
    "l1": lambda x: abs(x),
    "mse": lambda x: x**2,
    "smooth_l1": lambda x: x**2 / 2 if abs(x) < 1 else abs(x) - 0.5,
}


def components_of(**changed):
    """Return the sample components, in eval mode."""
    made = {name: ComponentConfig(**config).make(name) for name, config in {**COMPONENTS, **changed}.items()}
    return torch.nn.ModuleDict(made).eval()


def unprepared(**params):
    return ObjectiveConfig(type="behaviour_cloning", params={"wiring": WIRING, **params}).make("train.objective")


def prepared(data=None, components=None, **params):
    """Return a policy that was prepared for `data`, and its components."""
    policy, components = unprepared(**params), components_of() if components is None else components
    policy.prepare(components, Demonstrations() if data is None else data)
    return policy, components


@pytest.fixture(scope="module")
def data():
    return Demonstrations()


@pytest.fixture(scope="module")
def batch(data):
    """Samples in the middle and at the end of episodes."""
    return data.train.batch(torch.tensor([0, 9, 10, 11, 23]))


def normalized_by_hand(data, name, values):
    mean, std = data.statistics[name]["mean"], data.statistics[name]["std"]
    return (values - mean) / (std + 1e-8)


@pytest.mark.parametrize("loss", DISTANCES)
def test_the_loss_is_the_mean_over_samples_of_each_ones_mean_over_its_valid_actions(data, batch, loss):
    policy, components = prepared(data, loss=loss)
    predicted = normalized_by_hand(data, ACTION, policy.actions(components, batch)).tolist()
    target = normalized_by_hand(data, ACTION, batch[ACTION]).tolist()
    means = []
    for sample, is_pad in enumerate(batch["action_is_pad"].tolist()):
        distances = [
            DISTANCES[loss](predicted[sample][action][column] - target[sample][action][column])
            for action in range(3)
            for column in range(2)
            if not is_pad[action]
        ]
        means.append(sum(distances) / len(distances))
    assert [len([pad for pad in row if pad]) for row in batch["action_is_pad"]] == [0, 0, 1, 2, 2]
    assert policy.losses(components, batch).losses[loss].item() == pytest.approx(sum(means) / 5, rel=1e-5)


def test_without_a_mask_all_actions_count(data, batch):
    policy, components = prepared(data)
    bare = {name: values for name, values in batch.items() if name != "action_is_pad"}
    no_pad = {**batch, "action_is_pad": torch.zeros(5, 3, dtype=torch.bool)}
    given, expected = (policy.losses(components, samples).losses["l1"] for samples in (bare, no_pad))
    torch.testing.assert_close(given, expected)
    assert given != policy.losses(components, batch).losses["l1"]


def test_a_sample_weighs_the_same_in_every_batch(data, batch):
    policy, components = prepared(data)
    ones = [{name: values[[index]] for name, values in batch.items()} for index in range(5)]
    losses = torch.stack([policy.losses(components, one).total for one in ones])
    torch.testing.assert_close(policy.losses(components, batch).total, losses.mean())


def test_the_metric_is_the_distance_of_the_first_action_in_the_units_of_the_data(data, batch):
    policy, components = prepared(data)
    first = policy.actions(components, batch)[:, 0].tolist()
    distances = [
        sum((one - other) ** 2 for one, other in zip(given, demonstrated[0], strict=True)) ** 0.5
        for given, demonstrated in zip(first, batch[ACTION].tolist(), strict=True)
    ]
    measured = policy.losses(components, batch).measured()
    assert measured["first_action_error"].item() == pytest.approx(sum(distances) / 5, rel=1e-5)


def test_components_see_normalized_features(data, batch):
    policy, components = prepared(data, normalization_mapping={"VISUAL": "IDENTITY", STATE: "min_max"})
    seen = {}
    for name in ("backbone", "embedder"):
        components[name].register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    policy.actions(components, batch)
    assert torch.equal(seen["backbone"], batch[IMAGE] / 255)
    low, high = data.statistics[STATE]["min"], data.statistics[STATE]["max"]
    torch.testing.assert_close(seen["embedder"], 2 * (batch[STATE] - low) / (high - low) - 1)


def test_a_saved_state_acts_without_the_data_set(data, batch):
    policy, components = prepared(data, output_normalization_modes={ACTION: "quantiles"})
    again = unprepared(output_normalization_modes={ACTION: "quantiles"})
    again.load_state_dict(policy.state_dict())
    assert (again.n_obs_steps, again.chunk, dict(again.features)) == (2, 3, dict(policy.features))
    assert torch.equal(again.actions(components, batch), policy.actions(components, batch))
    assert torch.equal(again.losses(components, batch).total, policy.losses(components, batch).total)
    one = {name: batch[name][:, -1] for name in (STATE, IMAGE)}
    assert torch.equal(again.actor(components).act(one), policy.actor(components).act(one))


def test_a_loaded_state_brings_its_statistics(data, batch):
    policy, components = prepared(data)
    other, _ = prepared(Demonstrations(episodes=2), components)
    assert not torch.equal(other.actions(components, batch), policy.actions(components, batch))
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.actions(components, batch), policy.actions(components, batch))


@pytest.mark.parametrize(
    ("data_params", "params", "named"),
    [
        ({"n_obs_steps": 1}, {}, r"observation_steps: saved .*\[-1, 0\].*now .*\[0\]"),
        ({"chunk": 4}, {}, "chunk: saved 3, now 4"),
        ({"size": 6}, {}, r"features: saved .*\[3, 8, 8\].*now .*\[3, 6, 6\]"),
        ({}, {"normalization_mapping": {"STATE": "IDENTITY"}}, "modes: saved .*now .*IDENTITY"),
    ],
)
def test_the_state_of_a_policy_for_other_data_is_refused(data, data_params, params, named):
    policy, components = prepared(data)
    other, _ = prepared(Demonstrations(**data_params), components, **params)
    with pytest.raises(ValueError, match=named):
        other.load_state_dict(policy.state_dict())


def observations(data, steps):
    """Yield what two environments would show: frames of the data set without the dimension of time."""
    for step in range(steps):
        given = data.train.batch(torch.tensor([step, 12 + step]))
        yield {name: given[name][:, -1] for name in (STATE, IMAGE, EFFORT)}


def acted(policy, components, data, steps):
    """Return an actor's actions, and how often it predicted."""
    calls = []
    hook = components["head"].register_forward_hook(lambda *_: calls.append(1))
    actor = policy.actor(components)
    actor.reset()
    actions = [actor.act(observation) for observation in observations(data, steps)]
    hook.remove()
    return torch.stack(actions, dim=1), len(calls)


def test_an_actor_carries_out_n_action_steps_of_each_prediction(data):
    given = data.train.batch(torch.tensor([0, 12, 2, 14]))
    policy, components = prepared(data)
    chunks = policy.actions(components, given)
    actions, predictions = acted(policy, components, data, steps=3)
    assert predictions == 1
    torch.testing.assert_close(actions, chunks[:2].detach())
    policy, components = prepared(data, components, n_action_steps=2)
    actions, predictions = acted(policy, components, data, steps=3)
    assert predictions == 2
    torch.testing.assert_close(actions, torch.cat([chunks[:2, :2], chunks[2:, :1]], dim=1).detach())


def test_an_actor_averages_all_predictions_with_a_temporal_ensemble(data):
    policy, components = prepared(data, temporal_ensemble_coeff=0.5)
    first, second = policy.actions(components, data.train.batch(torch.tensor([0, 1]))).detach()
    actions, predictions = acted(policy, components, data, steps=2)
    assert predictions == 2
    torch.testing.assert_close(actions[0, 0], first[0])
    weight = torch.exp(torch.tensor(-0.5))
    torch.testing.assert_close(actions[0, 1], (first[1] + weight * second[0]) / (1 + weight))


def test_a_policy_from_states_needs_one_component_and_no_dimension_of_time():
    data = Demonstrations(n_obs_steps=1, chunk=1)
    split = {name: values[:, 0] for name, values in data.train.batch(torch.arange(48)).items()}
    data.train = type(data.train)(split)
    head = {"type": "action_mlp", "params": {"in_features": 3, "action_dim": 2, "hidden": [4]}}
    components = torch.nn.ModuleDict({"head": ComponentConfig(**head).make("head")})
    policy, _ = prepared(data, components, wiring=[f"actions = head({STATE})"])
    actions = policy.actions(components, {STATE: torch.zeros(7, 1, 3)})
    assert actions.shape == (7, 1, 2)
    assert policy.losses(components, data.train.batch(torch.arange(4))).total.isfinite()


@pytest.mark.parametrize("kind", ["behaviour_cloning", "flow_matching"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_an_action_may_be_one_number_of_any_type(kind, dtype):
    data = Demonstrations(n_obs_steps=1, chunk=3)
    given = data.train.batch(torch.arange(48))
    data.train = TensorSplit({**given, ACTION: (given[ACTION][..., 0] > 0).to(dtype)})
    data.features = {**data.features, ACTION: Feature(FeatureType.ACTION, ())}
    wiring = [f"a = head({STATE})" if kind == "behaviour_cloning" else f"a = head({STATE}, noisy_actions, time)"]
    params = {"wiring": wiring, "normalization_mapping": {"ACTION": "IDENTITY"}}
    policy, components = ObjectiveConfig(type=kind, params=params).make("train.objective"), torch.nn.ModuleDict()
    components["head"] = Half()
    policy.prepare(components, data)
    outcome = policy.losses(components, data.train.batch(torch.arange(9, 12)))
    assert outcome.total.isfinite()
    if kind == "behaviour_cloning":
        assert outcome.total.item() == outcome.measured()["first_action_error"].item() == 0.5


class Half(torch.nn.Module):
    """Predicts 0.5 for each of three actions."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, state, *_):
        return self.value.expand(len(state), 3)


def test_a_run_learns_and_keeps_what_acting_needs(tmp_path):
    head = {"type": "action_mlp", "params": {"in_features": 32, "chunk": 3, "action_dim": 2, "hidden": [32]}}
    train(policy_config(tmp_path / "run", components={**COMPONENTS, "head": head}, total_steps=60, lr=1e-2))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    errors = [line["first_action_error"] for line in lines if line["split"] == "train"]
    assert sum(errors[-10:]) < sum(errors[:10]) / 2
    assert [line["first_action_error"] for line in lines if line["split"] == "held_out"]
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step_*/objective.json")
    assert ACTION in saved.read_text()


def test_constant_values_are_reported_when_a_run_begins(capsys):
    embedder = {"type": "mlp", "params": {"in_features": 1, "out_features": 8}}
    prepared(components=components_of(embedder=embedder), wiring=[*WIRING[:1], f"felt = embedder({EFFORT})", WIRING[2]])
    assert capsys.readouterr().out.startswith(f"{EFFORT}: constant in the data at index 0")


@pytest.mark.parametrize("loss", ["l1", "smooth_l1"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, loss):
    check_resumes(policy_config(tmp_path / "run", {"wiring": WIRING, "loss": loss}), updates=4)
