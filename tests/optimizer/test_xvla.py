"""`xvla-adamw`: rates by the names of the parameters, as in LeRobot's XVLAAdamWConfig."""

import pytest
import torch
from conftest import needs
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

REGISTRY = OPTIMIZER_BUILDER_REGISTRY


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.VLM = nn.ModuleDict({"layers": nn.Linear(3, 3), "soft_prompt": nn.Linear(3, 1)})
        self.soft_prompt_hub = nn.Embedding(2, 3)
        self.head = nn.Linear(3, 2)
        self.head.bias.requires_grad = False

    def forward(self, x):
        seen = self.VLM["layers"](x + self.soft_prompt_hub.weight[0])
        return self.head(seen).square().mean() + self.VLM["soft_prompt"](seen).square().mean()


def rates(optimizer, policy):
    """Return (lr, weight decay) of each parameter by name."""
    names = {parameter: name for name, parameter in policy.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def built(policy, **params):
    return REGISTRY["xvla-adamw"](**params).build(policy, horizon=Horizon(10))


def test_it_has_lerobots_defaults():
    factory = REGISTRY["xvla-adamw"]()
    found = (factory.lr, factory.betas, factory.eps, factory.weight_decay, factory.grad_clip_norm)
    assert found == (1e-4, (0.9, 0.99), 1e-8, 0.0, 10.0)
    assert (factory.soft_prompt_lr_scale, factory.soft_prompt_warmup_lr_scale) == (1.0, None)


@pytest.mark.parametrize(("start", "soft"), [(None, 0.5), (0.25, 0.25)])
def test_the_vlm_has_a_tenth_and_soft_prompts_their_share(start, soft):
    policy = Policy()
    options = {"lr": 1e-2, "weight_decay": 0.1, "soft_prompt_lr_scale": 0.5, "soft_prompt_warmup_lr_scale": start}
    found = rates(built(policy, **options), policy)
    assert found["VLM.layers.weight"] == found["VLM.soft_prompt.weight"] == pytest.approx((1e-3, 0.01))
    assert found["soft_prompt_hub.weight"] == pytest.approx((1e-2 * soft, 0.1))
    assert found["head.weight"] == (1e-2, 0.1)
    assert "head.bias" not in found


def test_a_users_rule_goes_before_them_and_the_schedule_moves_all():
    policy = Policy()
    schedule = {"type": "linear", "num_warmup_steps": 0}
    optimizer = built(policy, lr=1.0, param_groups=[{"match": "VLM.layers.*", "lr": 0.3}], schedule=schedule)
    assert rates(optimizer, policy)["VLM.layers.bias"][0] == 0.3
    optimizer.step()
    assert rates(optimizer, policy)["VLM.layers.bias"][0] == pytest.approx(0.27)
    assert rates(optimizer, policy)["VLM.soft_prompt.bias"][0] == pytest.approx(0.09)


def test_a_model_without_such_names_has_one_rate():
    module = nn.Linear(2, 2)
    assert set(rates(built(module), module).values()) == {(1e-4, 0.0)}


def test_parameters_without_names_are_refused():
    with pytest.raises(ValueError, match="goes by the parameters' names"):
        built(list(Policy().parameters()))


@needs("lerobot")
def test_it_steps_as_lerobots():
    from lerobot.optim.optimizers import XVLAAdamWConfig

    options = {"lr": 1e-2, "weight_decay": 0.1, "soft_prompt_lr_scale": 0.5}
    ours, theirs = Policy(), Policy()
    pairs = [
        (ours, built(ours, **options, grad_clip_norm=None, implementation="foreach")),
        (theirs, XVLAAdamWConfig(**options).build(dict(theirs.named_parameters()))),
    ]
    for _ in range(5):
        for policy, optimizer in pairs:
            policy(torch.ones(4, 3)).backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name)), name
