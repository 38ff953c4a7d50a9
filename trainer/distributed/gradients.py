"""Gradients of replicated components, averaged over the processes."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from ..errors import UserCodeError
from .buckets import Bucket, Kind, Message, buckets_of
from .step_labels import LABEL_LENGTH, StepLabel, labels_differ
from .world import World

ONE_MESSAGE_BYTES = 2**20
"""So many bytes of gradients on the CPU travel in one message after the backward pass; more, in buckets during it."""
BUCKET_BYTES = 4 * 2**20


class GradientAverages:
    """Averages the gradients of each step over the processes: `begin`, a backward pass, `finish`.

    All processes must make the same steps in the same order. The label of a step is compared before a gradient is used,
    and before a message is sent whose length depends on the step: gloo ends a process that gets another length.

    Few gradients travel in one message, which has the same length in every step and begins with the step's label. With
    more of them the label is a separate message, on its way during the backward pass. A bucket is then sent as soon
    as its gradients, the label and the buckets before it are there.

    Args:
        world: The processes, of which there are several.
        components: The parameters that train, by component and name; without sharded ones.
        marks: How many numbers of the caller's are averaged along with each step.
    """

    def __init__(self, world: World, components: Mapping[str, Mapping[str, nn.Parameter]], marks: int) -> None:
        assert world.averages is not None  # the processes have joined
        self._world, self._group, self._marks = world, world.averages, marks
        self._parameters = {name: [*own.values()][::-1] for name, own in components.items()}
        self._names = {each: f"{name}.{path}" for name, own in components.items() for path, each in own.items()}
        size = sum(each.numel() * each.element_size() for each in self._names)
        self._in_one = size <= ONE_MESSAGE_BYTES and all(each.is_cpu for each in self._names)
        self._kind, self._length = self._first_kind(), 0
        self._length = self._plan_in_one(tuple(components))[0].length
        self._plans: dict[tuple[str, ...], list[Bucket]] = {}
        self._label = StepLabel(0, ())
        self._given: Tensor | None = None
        self._opening: Message | None = None
        self._agreed = False
        self._plan: list[Bucket] = []
        self._messages: list[Message] = []
        self._awaited: list[set[nn.Parameter]] = []
        self._place: dict[nn.Parameter, int] = {}
        if not self._in_one:
            for each in self._names:
                each.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]  # torch

    def begin(self, label: StepLabel, marks: Tensor | None) -> None:
        """Begin a step, before its backward pass.

        Args:
            label: The step.
            marks: The numbers to average along; None, if `finish` brings them.
        """
        if label.components not in self._plans:
            self._plans[label.components] = self._planned(label.components)
        self._label, self._plan, self._given = label, self._plans[label.components], marks
        self._messages, self._agreed, self._opening = [], False, None
        if self._in_one:
            return
        self._awaited = [set(bucket.parameters) for bucket in self._plan]
        self._place = {each: index for index, bucket in enumerate(self._plan) for each in bucket.parameters}
        self._opening = Message(Bucket(_ON_CPU, (), LABEL_LENGTH), label.numbers, self._names)
        self._opening.send(self._group)

    def finish(self, marks: Tensor | None = None) -> Tensor:
        """End a step, after its backward pass: every gradient of its components is a mean over the processes.

        Returns:
            The means of the marks.

        Raises:
            UserCodeError: The processes are not in the same step. All raise it.
            ConfigError: A gradient is sparse.
        """
        self._given = self._given if marks is None else marks
        self._send_ready(all_are=True)
        self._agree(wait=True)
        for message in self._messages:
            message.wait()
            message.unpack(self._world.size)
        marks = self._messages[0].head[-self._marks :] if self._messages else torch.zeros(self._marks)
        self._messages, self._place = [], {}
        return marks

    def end_update(self, update: int) -> None:
        """Check that all processes have made the same steps up to the end of an update.

        Raises:
            UserCodeError: They have not. All processes that are in this update or the next one raise it.
        """
        self.begin(StepLabel(update, ()), torch.zeros(self._marks))
        self.finish()

    def _first_kind(self) -> Kind:
        """Return the kind of most gradients, which travels with the label if all gradients are few."""
        sizes: dict[Kind, int] = {_ON_CPU: 0}
        for each in self._names:
            kind = (each.dtype, each.device)
            sizes[kind] = sizes.get(kind, 0) + each.numel() * each.element_size()
        return max(sizes, key=lambda kind: sizes[kind])

    def _planned(self, components: tuple[str, ...]) -> list[Bucket]:
        if self._in_one:
            return self._plan_in_one(components)
        if not components:
            return []
        buckets = buckets_of(self._of(components), BUCKET_BYTES) or [Bucket((torch.float32, self._world.device), ())]
        return [Bucket(buckets[0].kind, buckets[0].parameters, self._marks), *buckets[1:]]

    def _plan_in_one(self, components: tuple[str, ...]) -> list[Bucket]:
        parameters = self._of(components)
        first = [each for each in parameters if (each.dtype, each.device) == self._kind]
        others = [each for each in parameters if (each.dtype, each.device) != self._kind]
        message = Bucket(self._kind, first, LABEL_LENGTH + self._marks, self._length)
        return [message, *buckets_of(others, BUCKET_BYTES)]

    def _of(self, components: tuple[str, ...]) -> list[nn.Parameter]:
        """Return parameters in the order in which a backward pass is likely to reach them."""
        return [*chain(*(self._parameters.get(name, ()) for name in reversed(components)))]

    def _arrived(self, parameter: nn.Parameter) -> None:
        """Take note of a gradient that the backward pass has reached."""
        index = self._place.get(parameter)
        if index is None:  # no step of its component is under way
            return
        if index < len(self._messages):
            raise UserCodeError(
                f"{self._names[parameter]}: a backward pass reaches it twice, the second time after its gradient was"
                " sent to the other processes. Set use_reentrant=False in torch.utils.checkpoint."
            )
        self._awaited[index].discard(parameter)
        self._send_ready(all_are=False)

    def _send_ready(self, all_are: bool) -> None:
        """Send the next buckets whose gradients are there. all_are: whether no more gradients will come."""
        for index in range(len(self._messages), len(self._plan)):
            is_ready = all_are or (not self._awaited[index] and self._given is not None)
            opens = self._in_one and index == 0
            if not is_ready or not (opens or self._agree(wait=all_are)):
                return
            message = Message(self._plan[index], self._head() if index == 0 else None, self._names)
            message.send(self._group)
            self._messages.append(message)
            if opens:
                self._opening = message

    def _head(self) -> Tensor:
        assert self._given is not None  # by begin or finish
        return torch.cat([self._label.numbers, self._given.cpu()]) if self._in_one else self._given

    def _agree(self, wait: bool) -> bool:
        """Return whether all processes are known to be in this step. wait: whether to find out, and raise if not."""
        assert self._opening is not None  # sent first
        if not self._agreed and (wait or self._opening.has_arrived):
            self._opening.wait()
            self._agreed = self._label.is_everywhere(self._opening.head[:LABEL_LENGTH])
            if not self._agreed and wait:
                raise labels_differ(self._world, self._label)
        return self._agreed


_ON_CPU: Kind = (torch.float32, torch.device("cpu"))
