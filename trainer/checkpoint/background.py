"""Writing in a thread, from a copy of the tensors, while training continues."""

import copy
import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from optimizer.types import JsonObject

from .directory import Files


class BackgroundWriter:
    """Calls a function in a thread; there is one such thread at most."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a thread was started and not waited for."""
        return self._thread is not None

    def start(self, write: Callable[[], None]) -> None:
        """Call `write` in a thread."""
        thread = threading.Thread(target=write, daemon=True)
        thread.start()  # the system may refuse another thread
        self._thread = thread

    def wait(self) -> None:
        """Wait for the thread, if there is one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class CopiedFiles:
    """A copy of the content of files, with the tensors on the CPU. The next copy uses its memory again."""

    def __init__(self) -> None:
        self._copy: dict[str, JsonObject] = {}

    def of(self, files: Files) -> Files:
        """Return a copy of `files`; the one before is lost."""
        self._copy = {name: copy_to_cpu(content, self._copy.get(name, {})) for name, content in files.items()}
        return self._copy

    def drop(self) -> None:
        """Give the memory of the copy back."""
        self._copy = {}


def copy_to_cpu(content: Mapping[str, object], before: Mapping[str, object]) -> JsonObject:
    """Return a copy of a file's content with its tensors on the CPU.

    Args:
        content: Tensors, or plain values, by name.
        before: An earlier copy. Its tensors are overwritten where shape, type and strides are the same.
    """
    copies: JsonObject = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            room = before.get(name)
            if not isinstance(room, Tensor) or not _is_alike(room, value):
                room = torch.empty_like(value, device="cpu")
            copies[name] = room.copy_(value)
        else:
            copies[name] = copy.deepcopy(value)
    return copies


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
