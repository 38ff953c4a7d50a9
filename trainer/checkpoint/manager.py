"""When a run's checkpoints are written, how, and which of them are kept."""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from optimizer.config import counted
from optimizer.state import flush

from ..config.schema import BestConfig, TrainConfig
from ..errors import NewerFormatError, SaveError, UnreadableError, raised
from ..interfaces.objective import HELD_OUT_PREFIX
from ..run_layout import BEST, CHECKPOINTS, METRICS
from ..runtime.world import World
from .directory import Files, complete_checkpoints, is_finite
from .names import folder_name, is_folder, newest_sentence, read_pointer, step_of, write_pointer
from .writing import clear_leftovers, remove_checkpoints, write_checkpoint


class CheckpointManager:
    """The checkpoints of one run.

    train: says when and how. log: prints a line, for what went wrong where training goes on nevertheless.
    With `save_async`, `save` copies the tensors and a thread writes them; there is one such thread at most.
    """

    def __init__(self, train: TrainConfig, log: Callable[[str], None], world: World | None = None) -> None:
        self._train, self._say, self._world = train, log, world or World()
        self._folder = train.run_dir / CHECKPOINTS
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._step, self._is_last = 0, False
        self._written: int | None = None
        self._snapshot: dict[str, dict[str, Any]] = {}
        self._last_save = time.monotonic()
        self.best: dict[str, Any] = {}
        """Monitor, mode, value and step of the best evaluation so far, if the run has a `keep_best`."""
        self._best_before: dict[str, Any] = {}
        self.check_lock: Callable[[], None] = lambda: None
        """Called before each save: raises SaveError if the run is no longer ours to write."""
        self._untidy: str | None = None
        self._said_untidy = False

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step` updates, by their number or by the clock."""
        every, minutes = self._train.save_every, self._train.save_every_minutes
        by_clock = minutes is not None and time.monotonic() - self._last_save >= minutes * 60
        return by_clock or (every is not None and step % every == 0)

    def is_best(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take the metrics of an evaluation after `step` updates; return whether they are the best so far."""
        rule = self._train.keep_best
        if rule is None:
            return False
        value = metrics[rule.monitor.removeprefix(HELD_OUT_PREFIX)]
        sign = 1.0 if rule.mode == "max" else -1.0
        if value != value or (self.best and sign * value <= sign * float(self.best["value"])):
            return False
        self._best_before, self.best = self.best, {**_of_rule(rule), "value": value, "step": step}
        return True

    def take_best(self, best: Mapping[str, Any], step: int) -> None:
        """Go on from the best evaluation that the checkpoint after `step` updates tells of, if it was by the same rule
        and is there still."""
        rule = self._train.keep_best
        if best and rule is not None:
            if _of_rule(rule) != {name: best.get(name) for name in ("monitor", "mode")}:
                self._say(f"train.keep_best: {rule.mode} {rule.monitor} is another rule: the best starts anew")
            elif not is_folder(self._folder / folder_name(int(best["step"]))):
                # If BEST names that checkpoint, its own evaluation, which comes after it, was better still.
                if read_pointer(self._folder, BEST) != self._folder / folder_name(step):
                    done = counted(best["step"], "update")
                    self._say(f"train.keep_best: the best, after {done}, is not there: it starts anew")
            else:
                self.best = dict(best)

    def point_best(self) -> None:
        """Let BEST name the best checkpoint, or nothing if there is none. Raises OSError."""
        if not self._world.is_main:
            return
        folder = self._folder / folder_name(int(self.best["step"])) if self.best else None
        if folder is None or not is_folder(folder):
            self.best = {}
            (self._folder / BEST).unlink(missing_ok=True)
        elif folder != read_pointer(self._folder, BEST):
            write_pointer(self._folder, BEST, folder)

    def missing_best(self) -> list[str]:
        """Return a line if the run should have a best checkpoint and has none, as no evaluation gave a number."""
        rule = self._train.keep_best
        if rule is None or self.best:
            return []
        return [f"train.keep_best: no evaluation gave a {rule.monitor} that is a number: there is no best checkpoint"]

    def continue_from(self, step: int) -> None:
        """Take the checkpoint after `step` updates, which the run resumes from, for one that is written."""
        self._written = self._step = step

    def holds(self, step: int) -> bool:
        """Return whether the checkpoint after `step` updates is written, or being written."""
        return step in (self._written, self._step if self._thread is not None else None)

    def keep_as_best(self) -> None:
        """Let BEST name the best checkpoint, which is there, and remove the best one of before. Raises SaveError."""
        self.wait()
        try:
            self.point_best()
        except OSError as error:
            self.failed(f"{CHECKPOINTS}/{BEST}: cannot be written: {error}", error)
        self._tidy(self._step)

    def save(self, step: int, files: Files, is_last: bool = False) -> None:
        """Write a checkpoint of this moment, or let it be written. Raises SaveError, also of the one before.

        is_last: whether the run ends here, so that nothing goes on if it cannot be written.
        """
        self.wait()
        self._step, self._is_last = step, is_last
        self._last_save = time.monotonic()
        is_best = self.best.get("step") == step
        if self._train.save_async:
            self._snapshot = {name: _copied(content, self._snapshot.get(name, {})) for name, content in files.items()}
            self._thread = threading.Thread(target=self._write, args=(step, self._snapshot, is_best), daemon=True)
            self._thread.start()
        else:
            self._write(step, files, is_best)
            self._report()

    def wait(self) -> None:
        """Wait until what is being written is written. Raises SaveError if it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._report()

    def check_written(self, step: int) -> None:
        """Raise SaveError unless the last checkpoint written is that after `step` updates."""
        if self._written != step:
            done = counted(step, "update")
            raise SaveError(f"stopped after {done}, and not saved. {newest_checkpoint(self._folder)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; not if the process is to stop at once."""
        if kind is None:
            self.wait()
        elif self._thread is not None and not issubclass(kind, KeyboardInterrupt):
            self._thread.join()

    def failed(self, what: str, cause: OSError) -> None:
        """Say what failed and which checkpoint is there; raise SaveError with it, if the run is to stop."""
        message = f"{what}. {newest_checkpoint(self._folder)}"
        if self._train.on_save_error == "stop" or self._is_last:
            raise SaveError(message) from cause
        self._say(f"{message} Training goes on.")

    def _write(self, step: int, files: Files, is_best: bool) -> None:
        if not self._world.is_main:
            self._written = step
            return
        try:
            self.check_lock()
            metrics = self._train.run_dir / METRICS
            if metrics.exists():  # a checkpoint that outlives a power failure has its metrics
                flush(metrics)
            folder = write_checkpoint(self._folder, step, files)
            if is_best:
                write_pointer(self._folder, BEST, folder)
            self._written = step
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever it is: from a thread it would be lost
            self._failure = error
        else:
            self._tidy(step)

    def _tidy(self, step: int) -> None:
        """Remove what is left over and what need not be kept, as far as that is possible: the next save tries again."""
        if not self._world.is_main:
            return
        try:
            remove_checkpoints(self._superfluous(step))
            clear_leftovers(self._folder)
        except (OSError, UnreadableError, NewerFormatError) as error:  # the last: among those to keep
            self._untidy = f"old checkpoints cannot be removed: {error}. Training goes on; each save tries again."

    def _superfluous(self, step: int) -> list[Path]:
        """Return the checkpoints to remove.

        Not the newest, nor the newest finite one, nor the best, nor one that a newer innerstep wrote, nor those that
        this run has not come to.

        Raises UnreadableError where something cannot be read that decides it.
        """
        if self._train.keep_last is None:
            return []
        there = [folder for folder in complete_checkpoints(self._folder) if step_of(folder) <= step]
        kept, old = there[: self._train.keep_last], there[self._train.keep_last :]
        best = {read_pointer(self._folder, BEST)}  # which may name one that is older than the best, not saved yet
        if self.best:
            best.add(self._folder / folder_name(int(self.best["step"])))
        if old and not any(map(is_finite, kept)):
            best.add(next((folder for folder in old if not _is_newer(folder) and is_finite(folder)), None))
        return [folder for folder in old if folder not in best and not _is_newer(folder)]

    def _report(self) -> None:
        """Say what went wrong with the checkpoint that was written last. Raises SaveError if the run is to stop."""
        if self._untidy is not None and not self._said_untidy:
            self._say(self._untidy)
            self._said_untidy = True
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None and self._written != self._step and self.best.get("step") == self._step:
            self.best = self._best_before
        if isinstance(failure, OSError):
            self.failed(f"saving the checkpoint after {counted(self._step, 'update')} failed: {failure}", failure)
        elif isinstance(failure, SaveError | UnreadableError | NewerFormatError):
            raise failure
        elif failure is not None:  # what the rehearsal of saving cannot see
            what = f"saving the checkpoint after {counted(self._step, 'update')} failed: {raised(failure)}"
            raise SaveError(f"{what}. {newest_checkpoint(self._folder)}") from failure


def _is_newer(folder: Path) -> bool:
    try:
        is_finite(folder)
    except NewerFormatError:
        return True
    return False


def _of_rule(rule: BestConfig) -> dict[str, str]:
    return {"monitor": rule.monitor, "mode": rule.mode}


def newest_checkpoint(checkpoints: Path) -> str:
    """Return a sentence that says which checkpoint is there."""
    try:
        there = complete_checkpoints(checkpoints)
    except UnreadableError as error:
        return str(error)
    return newest_sentence("complete", there[0] if there else None)


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Run the body, which writes into `run_dir`. Raises SaveError, with the checkpoint that is there."""
    try:
        yield
    except OSError as error:
        raise SaveError(f"{run_dir}: cannot be written: {error}. {newest_checkpoint(run_dir / CHECKPOINTS)}") from error


def _copied(content: Mapping[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `content`, its tensors on the CPU, in those of `before` where they are alike."""
    copies: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            room = before.get(name)
            if not isinstance(room, Tensor) or not _are_alike(room, value):
                room = torch.empty_like(value, device="cpu")
            copies[name] = room.copy_(value)
        else:
            copies[name] = copy.deepcopy(value)
    return copies


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
