"""The component `flow_transformer`."""

import pytest
import torch

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from trainer.policies.flow_transformer import FlowTransformer

CAUTIOUS = {"lr": 3e-3, "use_cautious_optimizer": True}


def head(**changed):
    return FlowTransformer(**{"action_dim": 3, "chunk": 4, "dim": 16, "depth": 2, **changed})


def awake(**changed):
    """Return a head whose weights are all random, as they are after some training."""
    made = head(**changed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made.eval()


def inputs(batch=5):
    return torch.randn(batch, 16), torch.randn(batch, 6, 16), torch.randn(batch, 4, 3), torch.rand(batch)


def test_a_new_head_predicts_no_velocity():
    assert torch.equal(head()(*inputs()), torch.zeros(5, 4, 3))


def test_every_input_matters_and_samples_do_not_mix():
    made, given = awake(), inputs()
    before = made(*given)
    assert before.shape == (5, 4, 3)
    for position in range(4):
        changed = list(given)
        changed[position] = changed[position].clone()
        changed[position][2] += torch.randn_like(changed[position][2])
        difference = (made(*changed) - before).abs().amax(dim=(1, 2))
        assert difference[2] > 1e-3
        assert difference[[0, 1, 3, 4]].max() < 1e-5


def test_the_order_of_actions_and_of_condition_tokens_matters():
    made = awake()
    code, tokens, noisy, time = inputs()
    before = made(code, tokens, noisy, time)
    assert not torch.allclose(made(code, tokens.flip(1), noisy, time), before, atol=1e-3)
    assert not torch.allclose(made(code, tokens, noisy.flip(1), time).flip(1), before, atol=1e-3)


def test_it_runs_without_conditions():
    *_, noisy, time = inputs()
    assert awake()(noisy, time).shape == (5, 4, 3)


@pytest.mark.parametrize("changed", [{"dim": 15, "heads": 5}, {"dim": 16, "heads": 3}])
def test_a_width_that_the_heads_do_not_divide_is_refused(changed):
    with pytest.raises(ValueError, match="dim must be even, and heads must divide it; got dim 1"):
        head(**changed)


def test_other_shapes_are_refused():
    code, _, noisy, time = inputs()
    with pytest.raises(ValueError, match=r"\(N, 4, 3\) by its chunk and action_dim; got \[5, 4, 2\]"):
        head()(code, noisy[..., :2], time)
    with pytest.raises(ValueError, match="got 1 inputs"):
        head()(noisy)


def test_cautious_adamw_trains_it():
    """Document C's case: a DiT that learns velocities with cautious AdamW."""
    made = head()
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](**CAUTIOUS).build(made)
    given, target = inputs(batch=32), torch.randn(32, 1, 3).expand(32, 4, 3)
    losses = []
    for _ in range(150):
        loss = (made(*given) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]
