"""SGD in half precision on the CPU, which PyTorch's fused step does not move."""

import pytest
import torch
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_moves_parameters_in_half_precision_which_the_fused_step_of_pytorch_leaves(dtype, momentum):
    factory = OPTIMIZER_BUILDER_REGISTRY["sgd"]
    ours, plain = (nn.Parameter(torch.linspace(-2, 2, 50).to(dtype)) for _ in range(2))
    optimizer = factory(lr=0.5, momentum=momentum).build([ours])
    reference = torch.optim.SGD([plain], lr=0.5, momentum=momentum, foreach=False)
    for update in range(3):
        ours.grad = plain.grad = torch.linspace(1, 3 + update, 50).to(dtype)
        optimizer.step()
        reference.step()
    assert torch.allclose(ours, plain, rtol=2**-7)
    with pytest.raises(ValueError, match="fused SGD does not move parameters in half precision"):
        factory(lr=0.5, implementation="fused").build([ours])


def test_a_late_group_of_sgd_in_half_precision_is_moved():
    first, late = nn.Parameter(torch.zeros(40)), nn.Parameter(torch.zeros(40, dtype=torch.bfloat16))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.5).build([first])
    for count in (1, 2):
        for p in (first, late)[:count]:
            p.grad = torch.ones_like(p)
        optimizer.step()
        if count == 1:
            optimizer.add_param_group({"params": [late]})
    assert torch.equal(first, torch.full((40,), -1.0))
    assert torch.equal(late, torch.full((40,), -0.5, dtype=torch.bfloat16))
