"""Saving and loading, tried before the first update and checked at each save."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer.config import counted
from optimizer.state import is_sharded, local_tensor

from ..distributed.outcomes import by_each
from ..distributed.world import World
from ..errors import ConfigError, UnsavableError, UserCodeError, raised
from ..interfaces.component import config_path, config_paths
from ..loop.averaged_weights import MovingAverages, averaged_weights
from ..loop.parameter_lists import check_parameters, parameter_problems
from .contents import Progress, checkpoint_files, weights_files
from .directory import Files
from .savable import SavedForm


class CheckedContents:
    """Makes the contents of a run's checkpoints, and checks that a resume can load them.

    Its construction makes such contents and loads the state of each component back into it. No file is written.

    Args:
        components: By name, before the first update.
        optimizers: By component.
        averages: The run's.
        world: The place of this process; left out, the only one.

    Raises:
        ConfigError: Something cannot be saved, loaded, or trained.
    """

    def __init__(
        self,
        components: nn.ModuleDict,
        optimizers: Mapping[str, Optimizer],
        averages: MovingAverages,
        world: World | None = None,
    ) -> None:
        self._components, self._optimizers, self._averages = components, optimizers, averages
        self.world = world or World()
        """The processes that make a checkpoint together."""
        try:
            with averaged_weights(optimizers.values()):
                files = checkpoint_files(components, optimizers, averages.ema, Progress(0, {}))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        check_loads_back(components)
        if problems := parameter_problems(components, optimizers):
            raise ConfigError("\n".join(problems))
        self._form = SavedForm(files, config_paths(components))

    def check(self, step: int) -> None:
        """Check the contents of a checkpoint after `step` updates. Nothing is written, and training is not affected.

        To call after the first update, which makes the optimizers' state.

        Raises:
            UnsavableError: As `make` does.
        """
        self.make(Progress(step, {}))

    def problems(self) -> list[str]:
        """Return a line for each weight whose shape or type differs from that before the first update."""
        try:
            return self._form.problems(weights_files(self._components))
        except Exception:  # state_dict may be the user's code, which may raise anything
            return []

    def make(self, progress: Progress) -> Files:
        """Return the contents of a checkpoint; the tensors are the run's own. All processes call it together.

        Args:
            progress: The position of the run. Schedule-free optimizers must be in eval mode.

        Raises:
            UnsavableError: Something cannot be saved, or a resumed run could not load it: parameters without an
                optimizer, or weights of another form than before the first update. If it is so in one process, all
                raise it.
        """
        files: list[Files] = []
        by_each(self.world, lambda: files.append(self._make(progress)))
        return files[0]

    def _make(self, progress: Progress) -> Files:
        try:
            check_parameters(self._components, self._optimizers)
            files = checkpoint_files(self._components, self._optimizers, self._averages.ema, progress)
            self._form.check(files)
        except (UserCodeError, ValueError) as error:
            raise UnsavableError(f"after {counted(progress.step, 'update')}, which cannot be saved: {error}") from error
        return files


def check_loads_back(components: nn.ModuleDict) -> None:
    """Load the saved state of each component back into it, one component at a time.

    Raises:
        ConfigError: Tensors do not come back bit for bit. The message names them and the component.
    """
    for name, component in components.items():
        with torch.no_grad():
            problem = _loading_problem(component)
        if problem:
            raise ConfigError(f"{config_path(components, name)}: {problem}. A resumed run would be another one.")


def _loading_problem(component: nn.Module) -> str | None:
    """Return the reason why the state of `component` cannot be loaded back into it, or None."""
    copies: _Copies = {}  # most tensors are in the state as they are: one copy does for both
    state = {key: _copy_as_read(value, copies) for key, value in component.state_dict().items()}
    before: dict[str, object] = {
        name: _copy_as_read(tensor, copies)
        for name, tensor in (*component.named_parameters(), *component.named_buffers())
        if isinstance(tensor, nn.Parameter) or name in state
    }
    for parameter in component.parameters():
        if parameter.requires_grad:  # what the state lacks shows then; a frozen parameter may be left out of it
            parameter.add_(1)
    try:
        component.load_state_dict(state)
    except Exception as error:  # hooks are the user's code, which may raise anything
        return f"load_state_dict does not accept the result of state_dict: {raised(error)}"
    after = component.state_dict()
    now = {**dict(component.named_buffers()), **dict(component.named_parameters())}
    lost = [name for name, tensor in before.items() if name not in now or not _same_value(tensor, now[name])]
    lost += [key for key in state if key not in after or not _same_value(state[key], after[key])]
    if lost:
        names = ", ".join(dict.fromkeys(lost))
        return f"after load_state_dict of the result of state_dict, these are not as before: {names}"
    return None


_Copies = dict[tuple[object, ...], Tensor]
"""Copies of tensors by the place and form of the tensor in memory."""


def _copy_as_read(value: object, copies: _Copies) -> object:
    """Return a copy as it would be read from a file: a tensor without other owners, on the CPU or in shards.

    copies: those made so far, to which a new one is added.
    """
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if is_sharded(value):
        return value.detach().clone()
    place = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.is_conj(), value.is_neg())
    if place not in copies:
        copies[place] = value.detach().to("cpu", copy=True)
    return copies[place]


def _same_value(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same_bits(one, other)
    return not isinstance(one, Tensor)  # extra state: whatever set_extra_state makes of it


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if is_sharded(one) and is_sharded(other):
        return one.shape == other.shape and _same_bits(local_tensor(one), local_tensor(other))
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    bits = [tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().unsqueeze(-1) for tensor in (one, other)]
    return torch.equal(*(each.view(torch.uint8) for each in bits))
