"""Runs small batches through the model before anything is written, to check that its parts fit together."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from optimizer.state import unreadable_reason

from ..config.schema import ModelConfig
from ..distributed.batch_norm import share_statistics
from ..distributed.world import World
from ..errors import ConfigError, raised
from ..interfaces.component import config_path, train_mode
from ..interfaces.dataset import Batch, DataSet, Split
from ..interfaces.objective import Objective, Outcome, loss_problem, metric_problem, own_modules
from ..loop.data_checks import HELD_OUT, TRAIN, first_batch
from ..loop.target_components import start_targets
from ..runtime.devices import on_device
from ..runtime.files import checksum_of_tensors
from ..splitting.share import owned_modules
from .components import move, prepare, refuse_shapeless_parameters, refuse_shared_parameters
from .freezing import freeze
from .initial_weights import Loaded


def prepare_components(
    objective: Objective,
    components: nn.ModuleDict,
    data: DataSet,
    model: ModelConfig,
    loaded: Mapping[str, Loaded],
    device: torch.device,
) -> Outcome:
    """Bring the components into the form in which they train.

    All code that makes or replaces parameters (the objective's prepare, lazy modules in a first forward pass) runs
    here, before there are optimizers. Frozen components stay frozen, averages start at the weights that they average.

    Args:
        loaded: The parameters that each `init_from` loaded.
        device: Where the components are for now.

    Returns:
        The losses and metrics of one batch.

    Raises:
        ConfigError: The parts do not fit together.
    """
    train = on_device(first_batch(data.train, TRAIN, 2), device)
    held_out = None if data.held_out is None else on_device(first_batch(data.held_out, HELD_OUT, 2), device)
    move(objective, components, device)
    prepare(objective, components, data, loaded)
    move(objective, components, device)
    freeze(components, model)
    outcome = dry_run(objective, components, train)
    if held_out is not None:
        outcome = dry_run(objective, components, held_out)
    freeze(components, model)
    start_targets(components, model)
    refuse_shapeless_parameters(components)
    refuse_shared_parameters(components)
    return outcome


def dry_run(objective: Objective, components: nn.ModuleDict, batch: Batch) -> Outcome:
    """Return the losses and metrics of `batch` in eval mode, without gradients. Lazy modules get their parameters.

    Raises:
        ConfigError: A component cannot take its input. The message names it and the line that failed.
    """
    components.eval()
    return _outcome(objective, components, batch)


def dry_run_smallest_batch(
    objective: Objective, components: nn.ModuleDict, split: Split, samples: int, device: torch.device, world: World
) -> None:
    """Run the smallest batch in train mode, as some modules (BatchNorm over single values) cannot take one sample.

    A single process does so if it is one sample. Several do so in any case, together, with a sample or two each: from
    now on they share statistics over a batch, and find out whether that is possible.

    Args:
        split: The training data.
        samples: Of the smallest batch in training, over all processes.
        device: Where the components are for now.
        world: The processes, which all call.

    Raises:
        ConfigError: A module cannot.
    """
    share_statistics(world, [*components.modules(), *_modules_of(objective)])
    if world.is_alone and samples > 1:
        return
    own = min(len(world.taken(samples)), 2)
    batch = on_device(first_batch(split, TRAIN, own, world.rank), device)  # other samples than those of the others
    digests: dict[str, str] = {}
    train_mode(components)
    try:
        with world.computing(samples):
            _outcome(objective, components, batch, lambda: digests.update(_buffer_digests(components, world)))
    except ConfigError as error:
        if own > 1:
            raise
        size = "one sample" if samples == 1 else f"{samples} samples, of which a process takes one"
        raise ConfigError(
            f"data: the last batch of an epoch has {size}, over which the model cannot train: {error}."
            " Set data.drop_last to true, or change data.batch_size."
        ) from error
    finally:
        components.eval()
    _refuse_differing_buffers(components, digests, world)


def _modules_of(objective: Objective) -> Iterator[nn.Module]:
    for module in own_modules(objective).values():
        yield from module.modules()


def _refuse_differing_buffers(components: nn.ModuleDict, digests: Mapping[str, str], world: World) -> None:
    """Raise ConfigError if a buffer (the vectors of a codebook, a running mean) followed the samples of a process."""
    own, *others = world.gather(dict(digests))
    if found := [path for path, digest in own.items() if any(other.get(path) != digest for other in others)]:
        name, _, key = found[0].partition(".")
        raise ConfigError(
            f"{config_path(components, name)}: its buffer {key!r} follows the samples of a batch, so that"
            f" {world.size} processes would have different ones. Train in one process."
        )


def _buffer_digests(components: nn.ModuleDict, world: World) -> Iterator[tuple[str, str]]:
    """Yield the path and the checksum of each buffer; none in a single process, which compares nothing."""
    for path, buffer in () if world.is_alone else components.named_buffers():
        if unreadable_reason(buffer) is None:
            yield path, checksum_of_tensors({path: buffer})


def _outcome(
    objective: Objective, components: nn.ModuleDict, batch: Batch, examine: Callable[[], None] = lambda: None
) -> Outcome:
    """Return the losses and metrics of a batch. examine: called while the buffers are as the batch has left them."""
    running: list[tuple[str, str]] = []
    hooks = []
    for name, component in components.items():
        path = config_path(components, name)
        for module in dict.fromkeys([component, *owned_modules(component)]):
            hooks.append(module.register_forward_pre_hook(_note_input(running, path)))
            hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with torch.no_grad(), _buffers_restored(components):
            outcome = objective.losses(components, batch)
            examine()
            problem = loss_problem(outcome)
            if problem is None:
                metrics = outcome.measured()
                problem = metric_problem(metrics)
            if problem is None:
                return Outcome(outcome.losses, metrics)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # components and objectives are users' code, which may raise anything
        path, given = running[-1] if running else ("train.objective", f"a batch of {_shapes(batch)}")
        raise ConfigError(f"{path}: fails on {given}: {raised(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    raise ConfigError(f"train.objective: its losses must return an Outcome of scalar tensors; {problem}")


def _note_input(running: list[tuple[str, str]], path: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
    """Return a hook that appends the path of a component and the shapes of its input to `running`."""

    def note(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], dict):
            tensors = {name: value for name, value in inputs[0].items() if isinstance(value, Tensor)}
            given = f"a batch of {_shapes(tensors)}"
        else:
            shapes = ", ".join(str(list(value.shape)) for value in inputs if isinstance(value, Tensor))
            given = f"an input of shape {shapes}"
        running.append((path, given))

    return note


def _shapes(batch: Batch) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.items())


@contextmanager
def _buffers_restored(components: nn.ModuleDict) -> Iterator[None]:
    """Run the body, and put the buffers back afterwards as they were, also those that it replaced."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in components.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if unreadable_reason(buffer) is None
    ]
    try:
        yield
    finally:
        for module, name, buffer, values in kept:
            setattr(module, name, buffer)
            if not _is_expanded(buffer):  # torch writes no such tensor
                buffer.copy_(values)


def _is_expanded(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
