"""The public check of factories: it passes for every key, and names what the naive pattern breaks."""

from functools import partial

import pytest
import torch
from sample_optimizers import KEYS, PARAMS, registered, trainable
from torch.optim.lr_scheduler import LambdaLR

from optimizer import ConformanceError, check_factory

pytestmark = pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_conforms(key):
    factory = registered(key)(**PARAMS.get(key, {}))
    if key == "heavyball.AdamW":  # its own functions hold it, and so the model
        with pytest.raises(ConformanceError, match=r"^no model is kept alive: .*holds it$"):
            check_factory(factory, partial(trainable, key))
    else:
        check_factory(factory, partial(trainable, key))


def test_a_key_will_do():
    check_factory("adamw")


class Naive(torch.optim.AdamW):
    """The plain pattern: a subclass with its own step."""

    def __init__(self, params):
        super().__init__(params, lr=1e-2, fused=True)
        self.scheduler = LambdaLR(self, lambda k: 1 - k / 100)

    def step(self, closure=None):
        loss = super().step(closure)
        self.scheduler.step()
        return loss


class NaiveFactory:
    def build(self, params, horizon=None):
        return Naive(params.parameters())


@pytest.mark.filterwarnings("ignore")
def test_what_the_naive_pattern_breaks_is_named():
    with pytest.raises(ConformanceError) as refused:
        check_factory(NaiveFactory())
    broken = {line.split(":")[0] for line in str(refused.value).splitlines()}
    assert broken >= {
        "step hooks fire once",
        "a skipped step moves nothing",
        "a tools dry step moves nothing",
        "a loaded state goes on bit exactly",
        "a copy goes on bit exactly",
        "a tool that keeps only the groups keeps the position",
        "a second scheduler is refused",
    }
