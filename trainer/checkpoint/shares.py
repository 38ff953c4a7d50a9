"""The files of a checkpoint that each process writes: a component's by one of them, the run's own by the main one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from optimizer.state import gathered, is_sharded, without_sharing

from ..distributed.world import Place
from .background import CopiedFiles, copy_to_cpu
from .directory import ALONE, Files


@dataclass(frozen=True)
class Share:
    """The files of a checkpoint that one process writes."""

    names: list[str]
    """The paths of all files of the checkpoint, also those that others write, in the order of the manifest."""
    parts: Iterable[Files]
    """The files that this process writes. It need not hold more than one part at a time."""

    @classmethod
    def of(cls, files: Files, place: Place = ALONE) -> Self:
        """Return the share of a process. Its tensors are the run's own, unless they are sharded.

        If there are sharded tensors, to go through the parts is a collective operation: the tensors of one component
        after another are made whole in the memory of the process that writes them.

        Args:
            files: All files of the checkpoint; the tensors of components that others write are not read.
            place: The place of the process.
        """
        own, sharded = _divided(files, place)
        return cls(list(files), chain([_as_written(own)], _gathered(sharded, place)))

    @classmethod
    def copied(cls, files: Files, place: Place, copies: CopiedFiles) -> Self:
        """Return the share of a process as a copy, so that training can continue while it is written.

        It is a collective operation if there are sharded tensors.

        Args:
            files: As for `of`.
            place: The place of the process.
            copies: The earlier copy, whose memory is used again.
        """
        own, sharded = _divided(files, place)
        return cls(list(files), [copies.of(_as_written(own)), *_gathered(sharded, place, copied=True)])


@dataclass(frozen=True)
class _ShardedComponent:
    writer: int
    """The rank that writes it."""
    files: Files


def _divided(files: Files, place: Place) -> tuple[Files, list[_ShardedComponent]]:
    """Return the files that `place` writes without sharded tensors, and all components with sharded tensors.

    Component i is written by the rank i mod size, and the files of the run as a whole by the main process.
    """
    if place.size == 1:
        return files, []
    folders: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, content in files.items():
        folders.setdefault(name.rpartition("/")[0], {})[name] = content
    of_run = folders.pop("", {})
    own, sharded = dict(of_run if place.rank == 0 else {}), []
    for index, component in enumerate(folders.values()):
        writer = index % place.size
        if any(is_sharded(value) for content in component.values() for value in content.values()):
            sharded.append(_ShardedComponent(writer, component))
        elif writer == place.rank:
            own |= component
    return own, sharded


def _gathered(components: list[_ShardedComponent], place: Place, copied: bool = False) -> Iterator[Files]:
    """Yield the files that `place` writes of sharded components, a component at a time, or none.

    copied: whether tensors that are not sharded, and plain values, are copies too.
    """
    own: Files = {}
    waiting: set[int] = set()
    for component in components:
        if component.writer in waiting:  # it has to write what it has before it is sent more, as the others have to
            yield own
            own, waiting = {}, set()
        waiting.add(component.writer)
        whole = {
            name: gathered(content, component.writer) if name.endswith(".safetensors") else content
            for name, content in component.files.items()
        }
        if component.writer == place.rank:
            own = _as_written(
                {name: _copied(whole[name], component.files[name]) for name in whole} if copied else whole
            )
    if own:
        yield own


def _copied(whole: Mapping[str, Any], content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy of `whole`, made from `content`; a tensor that is sharded there is a new one already."""
    copies = copy_to_cpu({key: value for key, value in whole.items() if not is_sharded(content[key])}, {})
    return {key: copies.get(key, value) for key, value in whole.items()}


def _as_written(files: Files) -> Files:
    """Return the files with tensors that do not share memory."""
    return {
        name: without_sharing(content) if name.endswith(".safetensors") else content for name, content in files.items()
    }
