"""The end of a run in a few lines: time, values, paths, and the commands that come next."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from optimizer.config import counted, visible

from ..config.schema import ExperimentConfig
from ..errors import command_for
from ..runtime.terminal import on_terminal
from .progress_view import evaluation_entries, values_text
from .run_status import RunStatus, values_of
from .tables import duration, named_values, rate


def show_summary(
    console: Console, end: str, status: RunStatus, config: ExperimentConfig, latest: Path | None, best: Path | None
) -> None:
    """Print the summary of a run.

    Args:
        console: Where it is printed.
        end: Why it ended.
        status: Its events.
        config: The run's.
        latest: The folder of its last checkpoint.
        best: That of its best one, if it keeps it.
    """
    rows = summary_rows(status, config, latest, best)
    total = status.horizon.total_steps
    done = "" if status.step == total else f"{status.step} of "
    lines = [Text(f"{end}: {done}{counted(total, 'update')}", style="bold")]
    for name, values in named_values(rows, console.width if on_terminal(console) else None):
        lines.append(Text.assemble((name, "bold"), visible(values)))
    for line in lines:
        console.print(line, soft_wrap=True)


def summary_rows(
    status: RunStatus, config: ExperimentConfig, latest: Path | None, best: Path | None
) -> list[tuple[str, list[str]]]:
    """Return the values of a summary, by name. The arguments are those of `show_summary`."""
    trained = status.step - status.done
    pace = [] if trained == 0 else [f"{rate(trained / max(status.elapsed(), 1e-9))} updates/s"]
    rows = [
        ("time", [duration(status.elapsed()), *pace]),
        ("training", values_text(values_of(status.line or {}))),
        *evaluation_entries(status),
        ("run", [str(config.train.run_dir)]),
        ("checkpoint", [] if latest is None else [str(latest)]),
        ("best one", [] if best is None else [str(best)]),
    ]
    commands = next_commands(config, is_done=status.step == status.horizon.total_steps)
    return [*rows, *(("" if index else "next", [command]) for index, command in enumerate(commands))]


def next_commands(config: ExperimentConfig, is_done: bool) -> list[str]:
    """Return the commands that continue or use a run, with its path, quoted for a shell."""
    names = [] if is_done else ["resume"]
    names += [] if config.train.evaluation is None else ["evaluate"]
    return [command_for(name, config.train.run_dir) for name in [*names, "checkpoint inspect"]]
