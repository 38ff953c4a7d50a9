"""`iql`: its losses and updates are the paper's, written out by hand."""

import copy
import math

import pytest
import torch
from conftest import metrics_of
from sample_transitions import COMPONENTS, SGD, TARGETS, by_hand, rl_config, trainer_of, write

EXPECTILE, BETA, GAMMA, HIGHEST = 0.9, 2.0, 0.95, 1.5
PARAMS = {"expectile": EXPECTILE, "temperature": BETA, "discount": GAMMA, "max_weight": HIGHEST}
GAUSSIAN = {"type": "gaussian_mlp", "params": {"in_features": 3, "out_features": 2, "hidden": [8]}}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "data.npz")


def rows_of(components, transitions):
    """Return the three losses, summed over the rows one by one."""
    sums = {"value": 0.0, "actor": 0.0, "critic": 0.0}
    for s, a, r, s2, end in zip(*transitions, strict=True):
        q = min(float(components[f"target_critic_{i}"](torch.cat([s, a]))) for i in (1, 2))
        advantage = q - float(components["value"](s))
        sums["value"] += (EXPECTILE if advantage > 0 else 1 - EXPECTILE) * advantage**2
        weight = min(math.exp(BETA * advantage), HIGHEST)
        output = components["actor"](s)
        if isinstance(output, tuple):
            normal = torch.distributions.Normal(output[0], output[1].exp())
            sums["actor"] += weight * -float(normal.log_prob(a).sum())
        else:
            sums["actor"] += weight * float((output - a).square().sum())
        target = float(r) + GAMMA * (1 - float(end)) * float(components["value"](s2))
        sums["critic"] += sum((float(components[f"critic_{i}"](torch.cat([s, a]))) - target) ** 2 for i in (1, 2))
    return {name: total / len(transitions[0]) for name, total in sums.items()}


@pytest.mark.parametrize("actor", [COMPONENTS["iql"]["actor"], GAUSSIAN], ids=["deterministic", "gaussian"])
@torch.no_grad()
def test_the_losses_are_the_sums_over_the_rows(tmp_path, path, actor):
    components = {**COMPONENTS["iql"], "actor": actor}
    trainer = trainer_of(rl_config(tmp_path / "run", path, "iql", params=PARAMS, components=components))
    for component in trainer.components.values():  # targets of their own, and actions on both sides of the limit
        for parameter in component.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
    outcome = trainer.objective.losses(trainer.components, trainer.data.train.batch(torch.arange(20)))
    expected = rows_of(trainer.components, by_hand(path))
    assert {name: float(loss) for name, loss in outcome.losses.items()} == pytest.approx(expected, rel=1e-4)


def step(component, loss, lr=0.05):
    """Take a step of SGD by the gradient of `loss`."""
    gradients = torch.autograd.grad(loss, list(component.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(component.parameters(), gradients, strict=True):
            parameter -= lr * gradient


def update(c, transitions):
    """Make one update as the authors' code does: value, then actor by the new value, then critics, then targets."""
    s, a, r, s2, end = transitions
    sa = torch.cat([s, a], dim=1)
    q = torch.minimum(c["target_critic_1"](sa), c["target_critic_2"](sa)).squeeze(1).detach()
    u = q - c["value"](s).squeeze(1)
    step(c["value"], (abs(EXPECTILE - (u.detach() < 0).float()) * u**2).mean())
    weight = torch.exp(BETA * (q - c["value"](s).squeeze(1))).clamp(max=HIGHEST).detach()
    step(c["actor"], (weight * (c["actor"](s) - a).square().sum(1)).mean())
    y = (r + GAMMA * (1 - end) * c["value"](s2).squeeze(1)).detach()
    for name in ("critic_1", "critic_2"):
        step(c[name], (c[name](sa).squeeze(1) - y).square().mean())
        with torch.no_grad():
            for target, source in zip(c[f"target_{name}"].parameters(), c[name].parameters(), strict=True):
                target += 0.25 * (source - target)


def test_updates_are_those_of_the_authors_code(tmp_path, path):
    trainer = trainer_of(rl_config(tmp_path / "run", path, "iql", params=PARAMS))
    twin = copy.deepcopy(trainer.components)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    transitions = by_hand(path)
    for _ in range(6):
        update(twin, transitions)
    before = copy.deepcopy(trainer.components)
    trainer.run()
    for name in COMPONENTS["iql"]:
        for mine, its, old in zip(*(m[name].parameters() for m in (trainer.components, twin, before)), strict=True):
            torch.testing.assert_close(mine.detach(), its.detach(), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(mine, old, atol=1e-3)
    assert {name for name, component in trainer.components.items() if not component.training} == set(TARGETS)


def test_a_line_of_metrics_has_the_losses_the_value_and_the_advantage(tmp_path, path):
    trainer = trainer_of(rl_config(tmp_path / "run", path, "iql", data={"params": {"path": path, "held_out": 0.25}}))
    trainer.run()
    train, held_out = metrics_of(tmp_path / "run")[-2:]
    for line in (train, held_out):
        losses = {name: line[f"loss/{name}"] for name in ("value", "actor", "critic")}
        assert line["loss"] == pytest.approx(sum(losses.values()))
        assert {"q", "advantage"} <= line.keys()
    assert {"grad_norm/value", "grad_norm/actor", "grad_norm/critic_1", "lr/critic_2"} <= train.keys()


def test_the_actor_can_be_delayed(tmp_path, path):
    config = rl_config(tmp_path / "run", path, "iql", optims={"actor": {**SGD, "every": 3}})
    trainer = trainer_of(config)
    trainer.run()
    assert trainer.updater.turns == {"value": 6, "actor": 2, "critic_1": 6, "critic_2": 6}
    has_actor = ["loss/actor" in line for line in metrics_of(tmp_path / "run")]
    assert has_actor == [True, False, False, True, False, False]


def test_a_gaussian_learns_its_width_within_its_bounds(tmp_path, path):
    adam = {"type": "adam", "params": {"lr": 0.5}}
    config = rl_config(
        tmp_path / "run",
        path,
        "iql",
        components={**COMPONENTS["iql"], "actor": GAUSSIAN},
        optims={"actor": adam},
        total_steps=40,
    )
    trainer = trainer_of(config)
    trainer.run()
    actor = trainer.components["actor"]
    assert (actor.log_std != 0).all()
    with torch.no_grad():
        actor.log_std.fill_(9.0)
        assert actor(torch.zeros(2, 3))[1].tolist() == [[2.0, 2.0]] * 2
        actor.log_std.fill_(-9.0)
        assert actor(torch.zeros(2, 3))[1].tolist() == [[-5.0, -5.0]] * 2
