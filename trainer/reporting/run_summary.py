"""The end of a run in a few lines: time, values, paths, and the commands that come next."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    reason: str
    """The first word or words of its summary."""
    resumes: bool
    """Whether a resume continues it."""
    latest: Path | None
    """The folder of its last checkpoint."""
    best: Path | None
    """That of its best one, if it keeps it."""


def show_summary(console: Console, ending: Ending, status: RunStatus, config: ExperimentConfig) -> None:
    """Print the summary of a run.

    Args:
        console: Where it is printed.
        ending: How it ended.
        status: Its events.
        config: The run's.
    """
    total = status.horizon.total_steps
    done = "" if status.step == total else f"{status.step} of "
    lines = [Text(f"{ending.reason}: {done}{counted(total, 'update')}", style="bold")]
    for name, values in named_values(_rows(ending, status, config), console.width if on_terminal(console) else None):
        lines.append(Text.assemble((name, "bold"), visible(values)))
    for line in lines:
        console.print(line, soft_wrap=True)


def _rows(ending: Ending, status: RunStatus, config: ExperimentConfig) -> list[tuple[str, list[str]]]:
    """Return the values of a summary, by name."""
    trained = status.step - status.done
    pace = [] if trained == 0 else [f"{rate(trained / max(status.elapsed(), 1e-9))} updates/s"]
    commands = next_commands(config, ending.resumes)
    return [
        ("time", [duration(status.elapsed()), *pace]),
        ("training", values_text(values_of(status.line or {}))),
        *evaluation_entries(status),
        ("run", [str(config.train.run_dir)]),
        ("checkpoint", [] if ending.latest is None else [str(ending.latest)]),
        ("best one", [] if ending.best is None else [str(ending.best)]),
        *(("" if index else "next", [command]) for index, command in enumerate(commands)),
    ]


def next_commands(config: ExperimentConfig, resumes: bool) -> list[str]:
    """Return the commands that use a run, and the one that continues it if it `resumes`, quoted for a shell."""
    names = ["resume"] if resumes else []
    names += [] if config.train.evaluation is None else ["evaluate"]
    return [command_for(name, config.train.run_dir) for name in [*names, "report", "checkpoint inspect"]]
