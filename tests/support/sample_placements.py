"""Components and objectives that are sharded in tests, and what workers of `processes` report of them."""

import gc
import io
import time
from typing import ClassVar

import torch
from rich.console import Console
from sample_worlds import TIMEOUT_SECONDS, in_float64, trainer_of
from torch import nn
from torch.distributed.fsdp import FSDPModule

from optimizer.state import is_sharded, local_part
from trainer import MODEL_REGISTRY, OBJECTIVE_REGISTRY, ConfigError, Objective, Outcome, load_config
from trainer.distributed.launch import joined
from trainer.distributed.placement import gathered
from trainer.distributed.world import World
from trainer.offline_trainer import OfflineTrainer

_LOOKS = 5


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
    with trainer_of(made) as trainer:
        components = trainer.components
        parameters = {
            name: (list(each.shape), local_part(each).numel(), is_sharded(each))
            for name, each in components.named_parameters()
        }
        return parameters, [name for name, module in components.named_modules() if isinstance(module, FSDPModule)]


@in_float64
def refused(made):
    """Return the message with which a run is refused."""
    with joined(World.from_environment(), TIMEOUT_SECONDS) as world:
        try:
            OfflineTrainer(load_config(made), Console(file=io.StringIO()), world=world)
        except ConfigError as error:
            return str(error)
    raise AssertionError("the run is not refused")


@in_float64
def bytes_after_forward_passes(made):
    """Return the bytes of all tensors before and after two forward passes of a component, and those of its weights."""
    with trainer_of(made) as trainer, torch.no_grad():
        component = trainer.components["first"]
        component(torch.ones(2, 4))
        before = _bytes_of_tensors()
        component(torch.ones(2, 4))
        return before, _bytes_of_tensors(), sum(each.numel() * 8 for each in component.parameters())


def _bytes_of_tensors():
    """Return the fewest of several looks: a thread of gloo may hold a message for a moment after it has arrived."""
    looks = []
    for _ in range(_LOOKS):
        looks.append(_bytes_of_tensors_now())
        time.sleep(0.02)
    return min(looks)


def _bytes_of_tensors_now():
    gc.collect()
    storages = {}
    for tensor in gc.get_objects():
        if isinstance(tensor, torch.Tensor):
            storage = local_part(tensor).untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


@in_float64
def called_by_one(made):
    """Return whether the main process, when it calls a gathered component alone, gets what all get together."""
    with trainer_of(made) as trainer, torch.no_grad():
        component, is_main = trainer.components["first"], trainer.world.is_main
        x = torch.linspace(-1, 1, 8).reshape(2, 4)
        together = component(x)
        with gathered(trainer.components.values()):
            alone = [component(x) for _ in range(2)] if is_main else []
        return [torch.equal(together, other) for other in (*alone, component(x))]


@in_float64
def notes_of_forward_passes(made):
    """Return how many forward passes a frozen component has noted at most in one update, and in all of them."""
    counts = []
    with trainer_of(made) as trainer:
        noted = trainer.components["first"]._get_fsdp_state()._comm_ctx.post_forward_order
        trainer.components["second"].register_forward_hook(lambda *_: counts.append(len(noted)))
        trainer.run()
    return counts[0], max(counts)


@in_float64
def with_averages(made):
    """Train a run to its end; return all its averages, whole, and the metrics of its last evaluation."""
    with trainer_of(made) as trainer:
        trainer.run()
        trainer.world.barrier()  # the main process writes to the end
        return whole_averages(trainer), trainer.metrics


@in_float64
def restored_averages(made):
    """Train a run to its end, and restore a new one from its checkpoint; return the averages of both, whole."""
    with trainer_of(made) as trainer:
        trainer.run()
        trainer.world.barrier()
        other = OfflineTrainer(load_config(made), Console(file=io.StringIO()), resumed=True, world=trainer.world)
        checkpoints = trainer.config.train.run_dir / "checkpoints"
        other.restore(checkpoints / (checkpoints / "latest").read_text().strip())
        return whole_averages(trainer), whole_averages(other)


def whole_averages(trainer):
    """Return all averages of a run, whole."""
    return {
        name: (each.full_tensor() if is_sharded(each) else each).detach().clone()
        for name, each in trainer.averages.named_tensors()
    }
