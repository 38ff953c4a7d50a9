"""The main process of a run prints and writes for all; what only it can do or know reaches the others."""

import io
import warnings

from rich.console import Console
from run_together import UPDATES, after_updates, config, replaced
from worlds import own_world, trainer_of

from trainer.distributed import agreement
from trainer.errors import SaveError
from trainer.reporting.metrics_file import MetricsFile
from trainer.runtime.signals import StoppedBySignal
from trainer.runtime.terminal import printing_once, report


def printed_by(made):
    """Train; return the output of this process."""
    output = io.StringIO()
    trainer_of(made, console=Console(file=output)).run()
    return output.getvalue()


def shown_beside(text):
    """Return how many warnings this process shows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with printing_once(own_world().is_main):
            warnings.warn(text, UserWarning, stacklevel=1)
            report(text)
    return len(caught)


def trained_with_full_disk(made, step, interrupted_after=None):
    """Train, while the metrics of one update cannot be written; return the error and the updates done.

    interrupted_after: the updates after which a signal comes to the main process. They exchange such news after 1, 3, 7
    … updates, and read it after the next one.
    """
    write, undo_signal = MetricsFile.write, lambda: None
    undo_seconds = replaced(agreement, "SECONDS", 1e9)
    if interrupted_after is not None:
        undo_signal = after_updates([(0, interrupted_after)])

    def refused(file, line):
        if line["step"] == step and line["split"] == "train":
            raise OSError(28, "No space left on device", str(file.path))
        write(file, line)

    undo, trainer = replaced(MetricsFile, "write", refused), trainer_of(made)
    try:
        trainer.run()
    except SaveError as error:
        return str(error), trainer.step
    except StoppedBySignal:
        return "stopped by a signal", trainer.step
    finally:
        for each in (undo, undo_signal, undo_seconds):
            each()
    return None, trainer.step


def test_the_main_process_prints_and_writes_for_all(two_workers, tmp_path):
    main, other = two_workers.call(printed_by, config(tmp_path / "run"))
    assert main.count(f"after {UPDATES} updates, held out") == 1
    assert other == ""
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == UPDATES + UPDATES // 2  # each once


def test_the_main_process_alone_shows_warnings(two_workers):
    assert two_workers.call(shown_beside, "the disk is slow") == [1, 0]


def test_metrics_that_cannot_be_written_stop_all_after_the_same_update(two_workers, tmp_path):
    first, second = two_workers.call(trained_with_full_disk, config(tmp_path / "run"), 4)
    assert first == second
    assert "metrics.jsonl: cannot be written: No space left on device" in first[0]
    assert first[1] in (5, 6)  # at the next exchange, which an evaluation comes after


def test_metrics_that_cannot_be_written_as_a_signal_stops_the_run_are_an_error_too(two_workers, tmp_path):
    made = config(tmp_path / "run", total_steps=50, eval_every=40, save_every=40)
    first, second = two_workers.call(trained_with_full_disk, made, 7, 5)
    assert first == second
    assert "metrics.jsonl: cannot be written: No space left on device" in first[0]
    assert first[1] == 8
    assert (tmp_path / "run/checkpoints/latest").read_text().strip() == "step_00000008"


def test_all_continue_without_a_line_if_the_config_says_so(two_workers, tmp_path):
    made = config(tmp_path / "run", on_save_error="continue")
    assert two_workers.call(trained_with_full_disk, made, 4) == [(None, UPDATES)] * 2
