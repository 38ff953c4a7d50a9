"""The objective `flow_matching`: its loss, its sampler, and the wiring that they share."""

import pytest
import sample_two_ways
import torch
from rich.console import Console
from sample_two_ways import CHUNK, SIDES, WIRING, TwoWays, config, parts
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from trainer import ConfigError, check_resumes, load_config
from trainer.builtins.dataflow import Dataflow
from trainer.builtins.modules import MLP
from trainer.offline_trainer import OfflineTrainer
from trainer.policies.behaviour_cloning import BehaviourCloning
from trainer.policies.flow_matching import FlowMatching, integrate, sample_times
from trainer.policies.flow_transformer import FlowTransformer
from trainer.policies.heads import ActionMLP

STATE = "observation.state"


def flow(wiring=WIRING, components=None, **options):
    """Return a prepared policy, its components, and its data."""
    if components is None:
        made = parts()
        components = {
            "embedder": MLP(**made["embedder"]["params"]),
            "action_head": FlowTransformer(**made["action_head"]["params"]),
        }
    policy, components, data = FlowMatching(wiring=wiring, **options), nn.ModuleDict(components), TwoWays()
    policy.prepare(components, data)
    return policy, components.eval(), data


def towards(end=1.0, **options):
    return flow(
        ["velocity = head(observation.state, noisy_actions, time)"], {"head": sample_two_ways.Towards(end)}, **options
    )


def trainer_of(made):
    return OfflineTrainer(load_config(made), Console(quiet=True))


def trained(policy, components, data, updates):
    """Train all components with cautious AdamW."""
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=5e-3, use_cautious_optimizer=True).build(components)
    for _ in range(updates):
        policy.losses(components, data.train.batch(torch.arange(64))).total.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("distribution", ["uniform", "beta"])
def test_the_loss_equals_that_of_each_sample_and_action_alone(distribution):
    policy, components, data = flow(time_distribution=distribution)
    for parameter in components.parameters():
        nn.init.normal_(parameter, std=0.2)
    batch = data.train.batch(torch.arange(10))
    torch.manual_seed(3)
    loss = policy.losses(components, batch).losses["velocity_mse"]
    torch.manual_seed(3)
    noise, times = torch.randn(10, CHUNK, 1), sample_times(10, distribution, torch.device("cpu"))
    normalize = policy.normalization
    total = 0.0
    for i, time in enumerate(times):
        action = normalize("action", batch["action"][i])
        noisy = (1 - time) * noise[i] + time * action
        tokens = components["embedder"](normalize(STATE, batch[STATE][i : i + 1]))
        velocity = components["action_head"](tokens, noisy[None], time[None])[0]
        errors = [
            float((velocity[k] - (action[k] - noise[i, k])).detach().square())
            for k in range(CHUNK)
            if not batch["action_is_pad"][i, k]
        ]
        total += sum(errors) / len(errors)
    assert loss.item() == pytest.approx(total / 10, rel=1e-5)


def test_actions_after_the_end_of_an_episode_do_not_count():
    policy, components, data = towards()
    batch = data.train.batch(torch.arange(10))
    torch.manual_seed(3)
    loss = policy.losses(components, batch).total
    batch["action"] = torch.where(batch["action_is_pad"].unsqueeze(-1), 100.0, batch["action"])
    torch.manual_seed(3)
    assert torch.equal(policy.losses(components, batch).total, loss)
    del batch["action_is_pad"]
    torch.manual_seed(3)
    assert policy.losses(components, batch).total > 10 * loss


def test_times_cover_their_distribution_evenly():
    uniform = sample_times(50, "uniform", torch.device("cpu"))
    torch.testing.assert_close(uniform.sort().values.diff(), torch.full((49,), 1 / 50))
    beta = sample_times(50, "beta", torch.device("cpu"))
    quantiles = (1 - beta / 0.999) ** 1.5  # the distribution function of Beta(1.5, 1)
    torch.testing.assert_close(quantiles.sort().values.diff(), torch.full((49,), 1 / 50))
    first = torch.stack([sample_times(50, "uniform", torch.device("cpu"))[0] for _ in range(200)])
    assert first.min() < 0.1
    assert first.max() > 0.9


def test_a_constant_velocity_is_integrated_exactly_for_any_number_of_steps():
    noise, constant = torch.randn(3, CHUNK, 2), torch.randn(3, CHUNK, 2)
    for steps in (1, 7):
        torch.testing.assert_close(
            integrate(lambda _, time: constant * time.new_ones(()), noise, steps), noise + constant
        )


def test_the_velocity_of_straight_paths_ends_at_their_target():
    noise, target = torch.randn(3, CHUNK, 2), torch.randn(3, CHUNK, 2)
    times = []

    def velocity(points, time):
        times.append(time[0].item())
        return (target - points) / (1 - time).view(-1, 1, 1)

    torch.testing.assert_close(integrate(velocity, noise, 4), target)
    assert times == [0, 0.25, 0.5, 0.75]


def test_actions_are_in_the_units_of_the_data():
    policy, components, data = towards(end=1.0)
    actions = policy.actions(components, {STATE: torch.randn(5, 1, 2)})
    statistics = data.statistics["action"]
    torch.testing.assert_close(actions, (statistics["mean"] + statistics["std"]).expand(5, CHUNK, 1))


def test_lines_that_do_not_depend_on_noise_or_time_run_once_to_act():
    policy, components, _ = flow(num_inference_steps=7)
    calls = []
    for name, component in components.items():
        component.register_forward_hook(lambda *_, name=name: calls.append(name))
    policy.actions(components, {STATE: torch.randn(5, 1, 2)})
    assert calls == ["embedder", *["action_head"] * 7]


def test_it_learns_both_ways_where_regression_learns_the_middle():
    policy, components, data = flow()
    trained(policy, components, data, 150)
    with torch.no_grad():
        actions = policy.actions(components, {STATE: torch.randn(200, 1, 2)})[:, 0, 0]
    near = [(actions - side).abs() < 0.8 for side in SIDES]
    assert [each.float().mean() > 0.15 for each in near] == [True, True]
    assert (near[0] | near[1]).float().mean() > 0.8
    regression = BehaviourCloning("mse", wiring=["actions = head(observation.state)"])
    heads = nn.ModuleDict({"head": ActionMLP(2, 1, CHUNK, [8])})
    regression.prepare(heads, data)
    trained(regression, heads, data, 100)
    with torch.no_grad():
        actions = regression.actions(heads, {STATE: torch.randn(200, 1, 2)})[:, 0, 0]
    assert min((actions - side).abs().median() for side in SIDES) > 1


@pytest.mark.parametrize("distribution", ["uniform", "beta"])
def test_a_run_with_cautious_adamw_and_dropout_resumes_exactly(distribution):
    check_resumes(config("unused", time_distribution=distribution))


def test_an_evaluation_gives_the_same_each_time(tmp_path):
    trainer = trainer_of(config(tmp_path / "run"))
    before = torch.get_rng_state()
    assert trainer.evaluations.on_held_out() == trainer.evaluations.on_held_out()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wiring", "message"),
    [
        ([WIRING[0], "v = action_head(tokens, time)"], "no line reads 'noisy_actions'"),
        ([WIRING[0], "v = action_head(tokens, noisy_actions)"], "no line reads 'time'"),
        ([WIRING[1].replace("tokens", STATE), "out = embedder(observation.state)"], "'out' does not depend on them"),
        ([WIRING[0], "v = action_head(tokens, noisy_action, time)"], "noisy_action.*noisy_actions"),
        ([WIRING[1], "v = embedder(velocity)"], "tokens"),
        (["v = action_head(noisy_actions, time)", "w = embedder(v)"], "must read a feature of the data"),
        ([], r"required(.|\n)*action_head\(embedder_tokens, noisy_actions, time\)"),
    ],
)
def test_a_wiring_without_a_velocity_is_refused(wiring, message, tmp_path):
    with pytest.raises(ConfigError, match=f"train.objective.params.wiring: .*{message}"):
        trainer_of(config(tmp_path / "run", wiring=wiring))


def test_a_velocity_of_another_shape_is_refused(tmp_path):
    wiring = [*WIRING[:1], "rate = action_head(tokens, noisy_actions, time)", "velocity = wide(rate)"]
    components = parts() | {"wide": {"type": "mlp", "params": {"in_features": 1, "out_features": 3}}}
    with pytest.raises(ConfigError, match=r"params.wiring: .* the velocity, \[2, 4, 1\].* got \[2, 4, 3\]"):
        trainer_of(config(tmp_path / "run", components, wiring))


def test_a_head_for_another_chunk_is_refused(tmp_path):
    components = parts()
    components["action_head"]["params"]["chunk"] = 5
    with pytest.raises(ConfigError, match=r"model.components.action_head: .* \(N, 5, 1\) .* got \[2, 4, 1\]"):
        trainer_of(config(tmp_path / "run", components))


@pytest.mark.parametrize(
    "lines",
    [
        ["a = f(x)", "b = g(a, t)", "c = f(b)"],
        ["b = g(x, t)", "a = f(x)", "c = g(a, b)"],
        ["a = f(x)", "b = g(a, t)", "a = f(a)", "c = g(a, b)"],
        ["b = g(x, t)", "x = f(x)", "c = g(x, b)"],
        ["a = g(x, t)", "b = f(a)", "a = f(x)", "c = g(a, b)"],
        ["t = f(t)", "a = f(x)", "c = g(a, t)"],
    ],
)
def test_the_two_parts_of_a_dataflow_give_the_result_of_the_whole(lines):
    def halve(value):
        return value / 2 + 1

    def combine(one, other):
        return 3 * one - other

    components, batch = {"f": halve, "g": combine}, {"x": torch.tensor(5.0), "t": torch.tensor(7.0)}
    once, dependent = Dataflow(lines).split(["t"])
    results = once.results(components, {"x": batch["x"]})
    assert torch.equal(dependent.run(components, {**results, "t": batch["t"]}), Dataflow(lines).run(components, batch))
