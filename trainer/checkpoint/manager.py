"""When the checkpoints of a run are written; the files beside this one hold best, retention, thread and errors."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from optimizer.config import counted
from optimizer.state import flush

from ..config.schema import TrainConfig
from ..distributed.outcomes import by_main
from ..distributed.world import World
from ..errors import SaveError
from ..run_layout import BEST, CHECKPOINTS, METRICS
from .background import BackgroundWriter, CopiedFiles
from .best import BestCheckpoint
from .directory import Files
from .names import folder_name, write_pointer
from .retention import tidy
from .save_errors import SaveErrors, newest_checkpoint, writing
from .shared_folder import check_shared
from .shares import Share
from .writing import write_checkpoint


class CheckpointManager:
    """Writes and removes the checkpoints of one run.

    With `train.save_async`, `save` copies the tensors and a thread writes them; there is one such thread at most. The
    last checkpoint of a run is written without a copy. All processes of the run call `save`, `wait` and `keep_as_best`
    together, and learn of the same outcome: each writes its share of a checkpoint, and the main one does all else. The
    thread exchanges values in a separate group.

    Args:
        train: When, how and where to save.
        log: Prints a line, for an error after which training continues.
        world: The place of this process; left out, the only one.
    """

    def __init__(self, train: TrainConfig, log: Callable[[str], None], world: World | None = None) -> None:
        self._train, self._folder, self._world = train, train.run_dir / CHECKPOINTS, world or World()
        self._errors = SaveErrors(self._folder, train.on_save_error == "stop", log)
        self._background, self._copies = BackgroundWriter(), CopiedFiles()
        self._step, self._is_last = 0, False
        self._written: int | None = None
        self._failure: BaseException | None = None
        self._untidy: str | None = None
        self._last_save = time.monotonic()
        self.best = BestCheckpoint(train.keep_best, self._folder, log, self._world)
        """The best evaluation so far, and its checkpoint."""
        self.check_lock: Callable[[], None] = lambda: None
        """Called in the main process before each save; it raises SaveError if another process trains the run now."""
        self.on_saved: Callable[[int], None] = lambda _: None
        """Called with the updates done when a checkpoint is on disk, perhaps in the thread that wrote it."""

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step` updates, by their number."""
        every = self._train.save_every
        return every is not None and step % every == 0

    def due_by_clock(self) -> bool:
        """Return whether a checkpoint is due by the clock of this process."""
        minutes = self._train.save_every_minutes
        return minutes is not None and time.monotonic() - self._last_save >= minutes * 60

    def continue_from(self, step: int) -> None:
        """Treat the checkpoint after `step` updates, which the run resumes from, as the last one written."""
        self._written = self._step = step

    def holds(self, step: int) -> bool:
        """Return whether the checkpoint after `step` updates is written, or being written."""
        return step in (self._written, self._step if self._background.is_writing else None)

    @property
    def latest(self) -> Path | None:
        """The folder of the last checkpoint that was written; None without one."""
        return None if self._written is None else self._folder / folder_name(self._written)

    def save(self, step: int, files: Files, is_last: bool = False) -> None:
        """Write a checkpoint, or start a thread that writes it.

        Args:
            step: Updates done.
            files: The content of all files of the checkpoint, those that other processes write included.
            is_last: Whether the run ends here, so that an error cannot be left to the next save.

        Raises:
            SaveError: This checkpoint, or the one before, cannot be written.
        """
        self.wait()
        self._step, self._is_last = step, is_last
        self._last_save = time.monotonic()
        is_best = self.best.is_after(step)
        if self._train.save_async and not is_last:
            share = Share.copied(files, self._world, self._copies)
            self._background.start(lambda: self._write(step, share, is_best))
        else:
            self._write(step, Share.of(files, self._world), is_best)
            self._report()

    def wait(self) -> None:
        """Wait until the checkpoint that a thread writes is written.

        Raises:
            SaveError: It cannot be written.
        """
        self._background.wait()
        self._report()

    def keep_as_best(self) -> None:
        """Let BEST name the best checkpoint, which is written, and remove the one before.

        Raises:
            SaveError: BEST cannot be written.
        """
        self.wait()
        try:
            self.best.write_pointer()
        except OSError as error:
            self.failed(f"{CHECKPOINTS}/{BEST}: cannot be written: {error}", error)
        self._tidy(self._step)

    def continue_alone(self) -> None:
        """Write whole checkpoints without the other processes, which may be gone, from now on.

        What a thread could not write with them is forgotten: it is saved again.
        """
        self._background.wait()
        self._failure = None
        self._world = self.best.world = self._world.alone()

    def check_written(self, step: int) -> None:
        """Check that the last checkpoint written is the one after `step` updates.

        Raises:
            SaveError: It is another one.
        """
        if self._written != step:
            done = counted(step, "update")
            raise SaveError(f"stopped after {done}, and not saved. {newest_checkpoint(self._folder)}")

    def failed(self, failure: str, cause: OSError) -> None:
        """Log a failure to write a file of the run, with the checkpoint that there is.

        Args:
            failure: A sentence without its full stop.
            cause: The system's error.

        Raises:
            SaveError: The run stops, by `train.on_save_error`.
        """
        self._errors.report(failure, cause, self._is_last)

    def __enter__(self) -> Self:
        """Check that all processes can write into the run's directory.

        Raises:
            ConfigError: A process does not see it.
            SaveError: The main process cannot write into it.
        """
        with writing(self._train.run_dir):
            check_shared(self._train.run_dir, self._world)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thread, unless the process must stop at once, and give the memory of its copy back."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return
        self._background.wait()
        self._copies.drop()
        if kind is None:
            self._report()

    def _write(self, step: int, share: Share, is_best: bool) -> None:
        """Write a checkpoint, name it, and remove superfluous ones. An error is kept for `_report`."""
        world = self._world.saving
        try:
            folder = write_checkpoint(self._folder, step, share, world, self._begin)
            if is_best:
                by_main(world, lambda: write_pointer(self._folder, BEST, folder))
            self._written = step
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # any kind: a thread would lose it
            self._failure = error
        else:
            self._tidy(step)
            self.on_saved(step)

    def _begin(self) -> None:
        """Prepare to write a checkpoint, in the main process."""
        self.check_lock()
        metrics = self._train.run_dir / METRICS
        if metrics.exists():  # a checkpoint that outlives a power failure has its metrics
            flush(metrics)

    def _tidy(self, step: int) -> None:
        if self._world.is_main:
            problem = tidy(self._folder, step, self._train.keep_last, self.best.folder)
            self._untidy = problem or self._untidy

    def _report(self) -> None:
        """Report the errors of the last save. Raises SaveError if the run stops."""
        self._errors.log_untidy(self._untidy)
        failure, self._failure = self._failure, None
        if failure is not None:
            if self._written != self._step and self.best.is_after(self._step):
                self.best.undo()
            self._errors.report_checkpoint(failure, self._step, self._is_last)
