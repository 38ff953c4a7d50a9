"""The gradients of a step when several processes train a run: the same averages, and the same decisions, in all."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from optimizer.state import is_sharded

from ..distributed.gradients import GradientAverages
from ..distributed.placement import is_reached, set_reached
from ..distributed.step_labels import StepLabel
from ..distributed.world import World
from .nonfinite import all_finite


class AgreedGradients:
    """Averages gradients over the processes, and lets all of them know which values of one of them are not finite.

    A mark for each component, and one for the losses, travels with the gradients. It is 0, or NaN if a process has
    found a value that is not finite. Gradients of replicated components need none: they are the same everywhere. A mark
    for each sharded parameter is positive if a process has its gradient; otherwise no process gets one.

    Args:
        world: The processes, which have joined.
        parameters: Those that train by name, by component.
    """

    def __init__(self, world: World, parameters: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        self._device = world.device
        self._index = {name: index for index, name in enumerate(parameters, start=1)}
        self._sharded = {name: [each for each in own.values() if is_sharded(each)] for name, own in parameters.items()}
        replicated = {
            name: {path: each for path, each in own.items() if not is_sharded(each)} for name, own in parameters.items()
        }
        ends = accumulate((len(own) for own in self._sharded.values()), initial=1 + len(parameters))
        self._spans = {name: slice(*span) for name, span in zip(self._sharded, pairwise(ends), strict=True)}
        """Where the marks of the sharded parameters of each component are."""
        self._length = 1 + len(parameters) + sum(map(len, self._sharded.values()))
        self._averages = GradientAverages(world, replicated, self._length)
        self._marks = torch.zeros(self._length)
        self._begun: int | None = None
        self.update: int | None = None
        """The update that the last step was in, which all processes were in."""

    def begin(self, update: int, components: Sequence[str], losses: Sequence[Tensor]) -> None:
        """Begin a step before its last backward pass.

        Args:
            update: Its number.
            components: Those that the step moves.
            losses: Those that must be finite.
        """
        names = tuple(name for name in self._index if name in components)
        needs_gradients = any(self._sharded[name] for name in names)
        self._begun = update
        self._averages.begin(StepLabel(update, names), None if needs_gradients else self._marked((), losses))

    def finish(self, components: Sequence[str], losses: Sequence[Tensor]) -> None:
        """End a step, after its last backward pass.

        Raises:
            UserCodeError: The processes are not in the same step. All raise it.
            ConfigError: A gradient is sparse.
        """
        names = [name for name in components if self._sharded[name]]
        self._marks = self._averages.finish(self._marked(names, losses) if names else None)
        self.update = self._begun
        for name in names:
            is_anywhere = (self._marks[self._spans[name]] > 0).tolist()
            for parameter, found in zip(self._sharded[name], is_anywhere, strict=True):
                set_reached(parameter, False)
                if not found:
                    parameter.grad = None

    def end_update(self, update: int) -> None:
        """Check that all processes have made the same steps up to the end of an update.

        Raises:
            UserCodeError: They have not.
        """
        self._averages.end_update(update)

    @property
    def losses(self) -> list[Tensor]:
        """Tensors that are finite if the losses of the step are so in all processes."""
        return [self._marks[:1]]

    def of(self, component: str, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors that are finite if the gradients of a component are so in all processes."""
        index = self._index[component]
        return [*(each for each in gradients if not is_sharded(each)), self._marks[index : index + 1]]

    def _marked(self, sharded: Sequence[str], losses: Sequence[Tensor]) -> Tensor:
        marks = torch.zeros(self._length, device=self._device)
        for loss in losses:
            marks[0] += 0 * loss.reshape(())
        for name in sharded:
            if not all_finite([each.grad for each in self._sharded[name] if each.grad is not None]):
                marks[self._index[name]] = torch.nan
            reached = [float(is_reached(each)) for each in self._sharded[name]]
            marks[self._spans[name]] = torch.tensor(reached, device=self._device)
        return marks
