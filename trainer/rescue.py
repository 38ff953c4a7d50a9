"""A run that ends early: its whole state is saved, and the message names the place and the way to continue."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals

from optimizer.config import counted, listed

from .checkpoint.directory import complete_checkpoints, newest_finite
from .checkpoint.names import newest_sentence
from .checkpoint.save_errors import newest_checkpoint
from .errors import (
    ConfigError,
    NewerFormatError,
    NonFiniteError,
    PeerError,
    SaveError,
    UnreadableError,
    UnsavableError,
    UserCodeError,
    raised,
    resume_command,
    without_stop_iteration,
)
from .loop.nonfinite import check_weights
from .loop.parameter_lists import parameter_problems
from .run import Run
from .run_layout import CHECKPOINTS
from .runtime.signals import Interruption, StoppedBySignal


@contextmanager
def rescuing(run: Run, interruption: Interruption) -> Iterator[None]:
    """Run the body. If it fails, save the run, unless its state is that within an update or not finite.

    Each message names the place where the body failed, the newest checkpoint, and the way to continue. If there are
    several processes, the main one saves alone, as the others may not be there; another one only fails.

    Args:
        interruption: With its `is_at_once`, a KeyboardInterrupt is a second signal, and nothing is saved.

    Raises:
        PeerError: Another process of the run failed.
        UserCodeError: The body failed.
        NonFiniteError: It met a value that is not finite.
        ConfigError: As the body raised it, if no update was made yet.
        KeyboardInterrupt: The body raised it, or a second signal came.
    """
    try:
        with _watched(run):
            yield
    except KeyboardInterrupt as error:
        if interruption.is_at_once or isinstance(error, StoppedBySignal):
            raise
        failure = f"{_describe_place(run)}: {raised(error)}"
        raise KeyboardInterrupt(_lines(failure, _rescue(run, failure))) from error
    except PeerError as error:
        raise _rescued_alone(run, error) from error
    except UnsavableError as error:
        raise UserCodeError(f"{error}\n{_way_to_continue(run.config.train.run_dir)}") from error
    except BaseException as error:  # libraries in Rust raise no Exceptions
        if isinstance(error, ConfigError) and run.step == run.begun:
            raise
        if isinstance(error, SaveError | UnreadableError) and not _is_in_update(run):
            raise  # not the user's: within an update, the run's files are neither written nor read
        error = without_stop_iteration(error)
        raise _rescued(run, error) from (error.__cause__ or error if _is_explained(error) else error)


def _rescued(run: Run, error: BaseException) -> UserCodeError | NonFiniteError:
    """Save the run after the failure `error` of the body; return the error for the user."""
    is_explained = _is_explained(error)
    problems = [] if is_explained else parameter_problems(run.components, run.optimizers)
    problems = problems or run.contents.problems()
    failure = "\n".join([f"{_describe_place(run)}: {str(error) if is_explained else raised(error)}", *problems])
    kind = NonFiniteError if isinstance(error, NonFiniteError) else UserCodeError
    hint = " --train.on_nonfinite=skip leaves such updates out." if kind is NonFiniteError else ""
    return kind(_lines(failure, _rescue(run, failure, hint)))


def _rescued_alone(run: Run, error: PeerError) -> PeerError:
    """Save the run after the failure of another process; return the error for the user.

    If the main process is gone, nobody saves, and the process that speaks in its place names the newest checkpoint.
    """
    names_checkpoint = error.speaks and not run.world.is_main
    notes = _way_to_continue(run.config.train.run_dir) if names_checkpoint else _rescue(run, str(error))
    return PeerError(_lines(str(error), notes), error.exit_code, error.calls, error.speaks, error.seconds)


def _is_explained(error: BaseException) -> bool:
    return isinstance(error, ConfigError | UserCodeError | NonFiniteError)


@contextmanager
def _watched(run: Run) -> Iterator[None]:
    """Run the body. An error that is due to the failure of another process becomes a PeerError."""
    failures = run.world.failures
    if failures is None:
        yield
        return
    failures.is_training = True
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if failure := failures.behind(error):
            raise failures.error(failure) from error
        raise


def early_end(run: Run) -> list[str]:
    """Return a line if the run is done before its time, by `train.early_stopping`."""
    if not run.early_stopping.is_over or run.step == run.horizon.total_steps:
        return []
    command = f"{resume_command(run.config.train.run_dir)} --train.early_stopping=null"
    end = f"the run ends after {run.step} of {counted(run.horizon.total_steps, 'update')}"
    return [f"train.early_stopping: {end}: {run.early_stopping.reason()}. `{command}` trains on."]


def signal_error(run: Run, number: Signals) -> StoppedBySignal:
    """Return the error for a run that a signal stopped.

    Raises:
        SaveError: Its last checkpoint could not be written.
    """
    run.checkpoints.check_written(run.step)
    command = f"`{resume_command(run.config.train.run_dir)}` continues there"
    return StoppedBySignal(f"{number.name}: stopped after {counted(run.step, 'update')}; they are saved; {command}")


def _is_in_update(run: Run) -> bool:
    return run.updater.update == run.step


def _describe_place(run: Run) -> str:
    """Return the present place in the run, as text."""
    batches = run.batches
    if not _is_in_update(run):
        return f"after {counted(run.step, 'update')}"
    epoch, offset = divmod(run.step, batches.steps_per_epoch)
    batch = offset * run.config.train.accumulate + run.updater.batch_index
    return f"update {run.step} (epoch {epoch}, batch {batch} of {batches.batches_per_epoch}, all counted from 0)"


def _rescue(run: Run, failure: str, hint: str = "") -> str:
    """Save, if the state is that between two updates and finite; return sentences on the checkpoints that are there.

    failure: the message so far. hint: the last sentence, if the weights are finite. Processes beside the main one
    return "".
    """
    if not run.world.is_main:
        return ""
    if sharded := run.sharded:
        lost = f"Training since then is not saved, as other processes have parts of {listed(sharded)}. "
        return ("" if run.checkpoints.holds(run.step) else lost) + _way_to_continue(run.config.train.run_dir)
    run.continue_alone()
    notes = ""
    in_update = _is_in_update(run)
    moved = run.updater.stepped if in_update else set()
    try:
        if in_update and not moved:
            run.updater.restore_buffers()
            run.updater.restore_rng()
        check_weights(run.components, run.averages.named_tensors())
        if moved:
            names = ", ".join(sorted(moved))
            notes = f"This update has moved {names} already: training since then is not saved. "
        elif run.step > run.begun and not run.checkpoints.holds(run.step):
            run.save(is_last=True)
            notes = _half_changed_notice(run.own_state.parts_with_state()) if in_update else ""
        run.checkpoints.wait()
    except NonFiniteError as error:
        notes, hint = f"Training since then is not saved: {error}. ", ""
    except Exception as error:  # the first failure must be reported
        is_reported = isinstance(error, UnsavableError) and str(error.__cause__) in failure
        notes = "" if is_reported else f"Saving failed too: {str(error).rstrip('.')}. "
        notes += "Training since then is not saved. "
    return notes + _way_to_continue(run.config.train.run_dir) + hint


def _lines(*lines: str) -> str:
    return "\n".join(filter(None, lines))


def _half_changed_notice(parts: list[str]) -> str:
    """Return a sentence on the state of the user's parts, which cannot be restored to that before the update."""
    return f"The state of {' and '.join(parts)} is saved as the failed update left it. " if parts else ""


def _way_to_continue(run_dir: Path) -> str:
    """Return sentences that name the newest finite checkpoint, and the command that continues from it."""
    checkpoints = run_dir / CHECKPOINTS
    try:
        finite, newest = newest_finite(checkpoints), complete_checkpoints(checkpoints)[:1]
    except (UnreadableError, NewerFormatError) as error:
        return str(error)
    if finite is None:
        return newest_checkpoint(checkpoints)
    target = run_dir if [finite] == newest else finite
    return f"{newest_sentence('finite', finite)} `{resume_command(target)}` continues there."
