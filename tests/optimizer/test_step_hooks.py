"""Step hooks fire once, whatever was put around a class's step."""

import torch
from torch import nn

from optimizer import CautiousOptimizer, scheduled
from optimizer.schedules.basic import Constant


def test_hooks_fire_once_where_a_decorator_was_put_around_a_step_that_called_them():
    """As torch.compile does with the steps of LBFGS and SparseAdam, when one was made before."""

    class Decorated(torch.optim.SGD):
        pass

    weight = nn.Parameter(torch.ones(2))
    Decorated([weight])
    Decorated.step = torch.no_grad()(Decorated.step)
    Decorated([weight])
    cautious = CautiousOptimizer(Decorated([weight], lr=0.1))
    inside = scheduled(Decorated)([weight], lr=0.1).embed(Constant())
    for optimizer in (cautious, inside):
        fired = []
        optimizer.register_step_pre_hook(lambda *given, fired=fired: fired.append(given))
        weight.grad = torch.ones(2)
        optimizer.step()
        assert len(fired) == 1


def test_a_step_that_says_itself_that_it_calls_the_hooks_is_taken_as_it_is():
    class Marked(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(group["lr"] * p.grad)

    Marked.step.hooked = True
    for make in (lambda p: CautiousOptimizer(Marked([p], lr=0.1)), lambda p: scheduled(Marked)([p]).embed(Constant())):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make(weight)
        optimizer.param_groups[0]["lr"] = 0.1
        weight.grad = torch.ones(2)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), torch.full((2,), 0.9))
