"""Where a run fails: what is whole is saved, and the user is told where it failed and how to continue."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals

from optimizer.config import counted

from .checkpoint.directory import complete_checkpoints, newest_finite
from .checkpoint.manager import newest_checkpoint
from .checkpoint.names import step_of
from .errors import (
    ConfigError,
    NewerFormatError,
    NonFiniteError,
    SaveError,
    UnreadableError,
    UnsavableError,
    UserCodeError,
    by_the_user,
    raised,
    resume_command,
)
from .loop.nonfinite import check_weights
from .loop.parameter_lists import parameter_problems
from .run import Run
from .run_layout import CHECKPOINTS
from .runtime.signals import Interruption, StoppedBySignal


@contextmanager
def rescuing(run: Run, interruption: Interruption) -> Iterator[None]:
    """Run the body. Where it fails, save what is whole.

    interruption: knows whether a KeyboardInterrupt is that of a second signal: then nothing is saved.

    Raises UserCodeError or NonFiniteError, whose message says where the body failed, what is saved and how to
    continue; ConfigError as it is, if no update was made yet; KeyboardInterrupt, with such a message too if the body
    raised it by itself.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if interruption.is_at_once or isinstance(error, StoppedBySignal):
            raise
        what = f"{_place(run)}: {raised(error)}"
        raise KeyboardInterrupt(f"{what}\n{_rescued(run, what)}") from error
    except UnsavableError as error:
        raise UserCodeError(f"{error}\n{_way_on(run.config.train.run_dir)}") from error
    except BaseException as error:  # libraries in Rust raise no Exceptions
        if isinstance(error, ConfigError) and run.step == run.begun:
            raise
        if isinstance(error, SaveError | UnreadableError) and not _is_in_update(run):
            raise  # ours: within an update nothing of the run's is written or read
        error = by_the_user(error)
        known = isinstance(error, ConfigError | UserCodeError | NonFiniteError)
        problems = [] if known else parameter_problems(run.components, run.optimizers)
        problems = problems or run.contents.problems()
        what = "\n".join([f"{_place(run)}: {str(error) if known else raised(error)}", *problems])
        kind = NonFiniteError if isinstance(error, NonFiniteError) else UserCodeError
        hint = " --train.on_nonfinite=skip leaves such updates out." if kind is NonFiniteError else ""
        raise kind(f"{what}\n{_rescued(run, what, hint)}") from (error.__cause__ or error if known else error)


def stopped_early(run: Run, number: Signals) -> StoppedBySignal:
    """Return the error for a run that a signal stopped.

    Raises:
        SaveError: Its last checkpoint could not be written.
    """
    run.checkpoints.check_written(run.step)
    command = f"`{resume_command(run.config.train.run_dir)}` continues there"
    return StoppedBySignal(f"{number.name}: stopped after {counted(run.step, 'update')}; they are saved; {command}")


def _is_in_update(run: Run) -> bool:
    return run.updater.update == run.step


def _place(run: Run) -> str:
    """Return where in the run something happens."""
    batches = run.batches
    if not _is_in_update(run):
        return f"after {counted(run.step, 'update')}"
    epoch, offset = divmod(run.step, batches.steps_per_epoch)
    batch = offset * run.config.train.accumulate + run.updater.batch_index
    return f"update {run.step} (epoch {epoch}, batch {batch} of {batches.batches_per_epoch}, all counted from 0)"


def _rescued(run: Run, what: str, hint: str = "") -> str:
    """Save, if the state is that between two updates and finite; return sentences that say what is there.

    what: what is told of the failure already. hint: what is to end the sentences where the weights are finite.
    """
    why = ""
    in_update = _is_in_update(run)
    moved = run.updater.stepped if in_update else set()
    try:
        if in_update and not moved:
            run.updater.restore_statistics()
            run.updater.restore_rng()
        check_weights(run.components)
        if moved:
            why = f"This update has moved {', '.join(sorted(moved))} already: what is trained since then is not saved. "
        elif run.step > run.begun and not run.checkpoints.holds(run.step):
            run.save(is_last=True)
            why = _half_changed(run.own_state.parts_with_state()) if in_update else ""
        run.checkpoints.wait()
    except NonFiniteError as error:
        why, hint = f"What is trained since then is not saved: {error}. ", ""
    except Exception as error:  # what failed first must be told
        told = isinstance(error, UnsavableError) and str(error.__cause__) in what
        why = "" if told else f"Saving failed too: {str(error).rstrip('.')}. "
        why += "What is trained since then is not saved. "
    return why + _way_on(run.config.train.run_dir) + hint


def _half_changed(parts: list[str]) -> str:
    """Return a sentence about state of the user's parts, of which there is no copy of before the update."""
    return f"The state of {' and '.join(parts)} is saved as the failed update left it. " if parts else ""


def _way_on(run_dir: Path) -> str:
    """Return which checkpoint is the newest finite one, and the command that continues from it."""
    checkpoints = run_dir / CHECKPOINTS
    try:
        finite, newest = newest_finite(checkpoints), complete_checkpoints(checkpoints)[:1]
    except (UnreadableError, NewerFormatError) as error:
        return str(error)
    if finite is None:
        return newest_checkpoint(checkpoints)
    target = run_dir if [finite] == newest else finite
    done = counted(step_of(finite), "update")
    return f"The newest finite checkpoint: after {done}. `{resume_command(target)}` continues there."
