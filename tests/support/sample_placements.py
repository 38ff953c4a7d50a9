"""Components and objectives that are sharded in tests, and what workers of `processes` report of them."""

import gc
from typing import ClassVar

import torch
from sample_worlds import built, in_float64, own_world
from torch import nn
from torch.distributed.fsdp import FSDPModule

from optimizer.state import is_sharded, local_tensor
from trainer import MODEL_REGISTRY, OBJECTIVE_REGISTRY, ConfigError, Objective, Outcome
from trainer.distributed.placement import gathered


@MODEL_REGISTRY.register("sampler")
class Sampler(nn.Module):
    """Two layers and a scale without dimensions, and a method beside `forward` that is named."""

    distributed_methods: ClassVar[tuple[str, ...]] = ("sample",)

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.linspace(0.5, 1.0, width))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).tanh()
        return self.scale * (x + self.shift)

    def sample(self, x):
        return self(x * self.shift)


@MODEL_REGISTRY.register("nameless_sampler")
class NamelessSampler(Sampler):
    distributed_methods = ()


@MODEL_REGISTRY.register("misnamed_sampler")
class MisnamedSampler(Sampler):
    distributed_methods = ("sampel",)


@MODEL_REGISTRY.register("two_types")
class TwoTypes(nn.Module):
    """A layer in float32, and one in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4).float(), nn.Linear(4, 4).double()

    def forward(self, x):
        return self.second(self.first(x.float()).double())


@OBJECTIVE_REGISTRY.register("sampling")
class Sampling(Objective):
    """Calls the method `sample` of each component."""

    def losses(self, components, batch):
        y = batch["x"]
        for component in components.values():
            y = component.sample(y)
        return Outcome({"squared": (y - batch["y"]).square().mean()})


@OBJECTIVE_REGISTRY.register("decaying")
class Decaying(Objective):
    """Adds to the loss a penalty on the weights, which it reads beside the forward pass."""

    def losses(self, components, batch):
        (component,) = components.values()
        squared = (component(batch["x"]) - batch["y"]).square().mean()
        return Outcome({"squared": squared, "penalty": sum(each.square().sum() for each in component.parameters())})


@in_float64
def placed(made):
    """Return a run's parameters by name, as (shape, elements here, whether sharded), and the names of all units."""
    components = built(made).components
    parameters = {
        name: (list(each.shape), local_tensor(each).numel() if is_sharded(each) else each.numel(), is_sharded(each))
        for name, each in components.named_parameters()
    }
    return parameters, [name for name, module in components.named_modules() if isinstance(module, FSDPModule)]


@in_float64
def refused(made):
    """Return the message with which a run is refused, before its directory is there."""
    try:
        trainer = built(made)
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"a run is built with {list(trainer.components)}")


@in_float64
def failed(made):
    """Return the message with which a run fails."""
    trainer = built(made)
    try:
        trainer.run()
    except Exception as error:
        return str(error)
    raise AssertionError("the run ends")


@in_float64
def bytes_after_forward_passes(made):
    """Return the bytes of all tensors before and after two forward passes of a component, and those of its weights."""
    component = built(made).components["first"]
    with torch.no_grad():
        component(torch.ones(2, 4))
        before = _bytes_of_tensors()
        component(torch.ones(2, 4))
    return before, _bytes_of_tensors(), sum(each.numel() * 8 for each in component.parameters())


def _bytes_of_tensors():
    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    storages = {}
    for tensor in tensors:
        storage = (local_tensor(tensor) if is_sharded(tensor) else tensor).untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


@in_float64
def called_by_one(made):
    """Return what a component makes of a batch when all processes call it, and when the main one does alone."""
    components, world = built(made).components, own_world()
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    with torch.no_grad():
        together = components["first"](x)
        with gathered(components.values()):
            alone = components["first"](x) if world.is_main else together
            again = components["first"](x) if world.is_main else together
        after = components["first"](x)
    return [torch.equal(together, other) for other in (alone, again, after)]


@in_float64
def with_averages(made):
    """Train a run to its end; return all its averages, whole, and the metrics of its last evaluation."""
    trainer = built(made)
    trainer.run()
    tensors = {
        name: (each.full_tensor() if is_sharded(each) else each).detach().clone()
        for name, each in trainer.averages.named_tensors()
    }
    return tensors, trainer.metrics
