"""`td3_bc`: its losses and updates are the paper's, written out by hand; the delayed actor and the targets."""

import copy

import pytest
import torch
from conftest import metrics_of
from sample_transitions import COMPONENTS, SGD, by_hand, rl_config, trainer_of, write

ALPHA, NOISE, CLIP, GAMMA = 1.5, 0.7, 0.3, 0.9
PARAMS = {"alpha": ALPHA, "policy_noise": NOISE, "noise_clip": CLIP, "discount": GAMMA}
EVERY_2 = {"actor": {**SGD, "every": 2}}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "data.npz")


@torch.no_grad()
def test_the_losses_are_the_sums_over_the_rows(tmp_path, path):
    trainer = trainer_of(rl_config(tmp_path / "run", path, "td3_bc", params=PARAMS))
    c = trainer.components
    for component in c.values():
        for parameter in component.parameters():
            parameter.mul_(3).add_(0.1 * torch.randn_like(parameter))
    batch = trainer.data.train.batch(torch.arange(20))
    torch.manual_seed(3)
    outcome = trainer.objective.losses(c, batch)
    torch.manual_seed(3)
    noise = torch.randn(20, 2) * NOISE
    assert (noise.abs() > CLIP).any()
    critic, distance, value = 0.0, 0.0, 0.0
    for row, (s, a, r, s2, end) in enumerate(zip(*by_hand(path), strict=True)):
        a2 = torch.stack([x + min(max(e, -CLIP), CLIP) for x, e in zip(c["target_actor"](s2), noise[row], strict=True)])
        a2 = torch.stack([min(max(x, torch.tensor(-1.0)), torch.tensor(1.0)) for x in a2])
        q2 = min(float(c[f"target_critic_{i}"](torch.cat([s2, a2]))) for i in (1, 2))
        y = float(r) + GAMMA * (0 if end == 1 else q2)
        critic += sum((float(c[f"critic_{i}"](torch.cat([s, a]))) - y) ** 2 for i in (1, 2)) / 20
        acted = c["actor"](s)
        distance += float((acted - a).square().mean()) / 20
        value += float(c["critic_1"](torch.cat([s, acted]))) / 20
    losses = {name: float(loss) for name, loss in outcome.losses.items()}
    assert losses == pytest.approx({"critic": critic, "behaviour_cloning": distance}, rel=1e-4)
    assert float(outcome.measured()["q"]) == pytest.approx(value, rel=1e-4)


def step(component, loss, lr=0.05):
    """Take a step of SGD by the gradient of `loss`."""
    gradients = torch.autograd.grad(loss, list(component.parameters()), retain_graph=True)
    with torch.no_grad():
        for parameter, gradient in zip(component.parameters(), gradients, strict=True):
            parameter -= lr * gradient


def follow(target, source, tau):
    with torch.no_grad():
        for average, weight in zip(target.parameters(), source.parameters(), strict=True):
            average += tau * (weight - average)


def update(c, transitions, number, every, together):
    """Make one update without noise: the critics, then the actor; each target with its own, or all with the actor."""
    s, a, r, s2, end = transitions
    sa = torch.cat([s, a], dim=1)
    with torch.no_grad():
        s2a2 = torch.cat([s2, c["target_actor"](s2)], dim=1)
        y = r + GAMMA * (1 - end) * torch.minimum(c["target_critic_1"](s2a2), c["target_critic_2"](s2a2)).squeeze(1)
    for name in ("critic_1", "critic_2"):
        step(c[name], (c[name](sa).squeeze(1) - y).square().mean())
        if not together:
            follow(c[f"target_{name}"], c[name], 0.25)
    if number % every == 0:
        acted = c["actor"](s)
        q = c["critic_1"](torch.cat([s, acted], dim=1))
        weight = ALPHA / q.abs().mean().detach()
        step(c["actor"], -weight * q.mean() + (acted - a).square().mean())
        follow(c["target_actor"], c["actor"], 0.5)
        for name in ("critic_1", "critic_2") if together else ():
            follow(c[f"target_{name}"], c[name], 0.25)


@pytest.mark.parametrize(("every", "together"), [(1, False), (2, False), (2, True)])
def test_updates_are_those_of_the_authors_code(tmp_path, path, every, together):
    components = copy.deepcopy(COMPONENTS["td3_bc"])
    for name in ("critic_1", "critic_2") if together else ():
        components[f"target_{name}"]["moves_with"] = "actor"
    optims, params = {"actor": {**SGD, "every": every}}, {**PARAMS, "policy_noise": 0.0}
    trainer = trainer_of(
        rl_config(tmp_path / "run", path, "td3_bc", params=params, components=components, optims=optims)
    )
    twin, before = copy.deepcopy(trainer.components), copy.deepcopy(trainer.components)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    transitions = by_hand(path)
    for number in range(6):
        update(twin, transitions, number, every, together)
    trainer.run()
    for name in COMPONENTS["td3_bc"]:
        for mine, its, old in zip(*(m[name].parameters() for m in (trainer.components, twin, before)), strict=True):
            torch.testing.assert_close(mine.detach(), its.detach(), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(mine, old, atol=1e-4)


def test_the_actor_and_its_target_move_at_every_second_update(tmp_path, path):
    config = rl_config(tmp_path / "run", path, "td3_bc", params=PARAMS, optims=EVERY_2, total_steps=7, save_every=1)
    trainer = trainer_of(config)
    trainer.run()
    assert trainer.updater.turns == {"actor": 4, "critic_1": 7, "critic_2": 7}
    moved = {name: [] for name in COMPONENTS["td3_bc"]}
    for number in range(1, 7):
        for name, steps in moved.items():
            old, new = (
                tmp_path / f"run/checkpoints/step_{n:08d}/{name}/model.safetensors" for n in (number, number + 1)
            )
            if old.read_bytes() != new.read_bytes():
                steps.append(number)
    assert moved.pop("actor") == moved.pop("target_actor") == [2, 4, 6]
    assert set(map(tuple, moved.values())) == {(1, 2, 3, 4, 5, 6)}


def test_an_update_without_the_actor_logs_the_critics_loss_alone(tmp_path, path):
    trainer = trainer_of(rl_config(tmp_path / "run", path, "td3_bc", optims=EVERY_2))
    trainer.run()
    lines = metrics_of(tmp_path / "run")
    assert ["loss/actor" in line for line in lines] == [True, False] * 3
    assert ["grad_norm/actor" in line for line in lines] == [True, False] * 3
    assert all("loss/critic" in line for line in lines)
    assert {"q", "behaviour_cloning"} <= lines[0].keys()


def test_the_noise_is_the_runs_and_the_same_in_each_evaluation(tmp_path, path):
    runs = []
    for name in ("a", "b"):
        data = {"params": {"path": path, "held_out": 0.25}}
        config = rl_config(tmp_path / name, path, "td3_bc", data=data, eval_every=1 if name == "a" else None)
        trainer_of(config).run()
        runs.append([line for line in metrics_of(tmp_path / name) if line["split"] == "train"])
    assert runs[0] == runs[1]
