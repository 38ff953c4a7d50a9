"""The command line. It imports what a command needs when that command runs: --help is instant."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.checkpoint_cli import checkpoint_app

app = typer.Typer(
    name="innerstep",
    help="Train models made of named components, each with an optimizer that steps its own schedule.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(checkpoint_app)

INTERRUPTED = 130
STOPPED_AND_SAVED = 75
"""The exit code of a run that a signal stopped early and that can be resumed: EX_TEMPFAIL of sysexits.h."""

_TAKES_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML or JSON file.")]


@app.command(context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config.")
def train(
    context: typer.Context,
    config: _Config,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the run directory.")
    ] = False,
) -> None:
    """Train an experiment from the start."""
    from trainer.config import load_config
    from trainer.runs import train as start

    overrides = _overrides(context)
    with _interruptible():
        start(
            load_config(config, overrides),
            overwrite=overwrite,
            source=None if "train.run_dir" in overrides else config,
        )


@app.command(context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the run's config.")
def resume(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run's directory, or one of its checkpoints, or its checkpoints/best."),
    ],
) -> None:
    """Take up a run from its newest checkpoint, or from the given one."""
    from trainer.runs import resume as take_up

    with _interruptible():
        take_up(run, _overrides(context))


@app.command(context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config.")
def plan(context: typer.Context, config: _Config) -> None:
    """Show components, optimizers and schedules; train nothing and write nothing."""
    from rich.console import Console

    from trainer.config import load_config
    from trainer.offline_trainer import OfflineTrainer

    typer.echo(OfflineTrainer(load_config(config, _overrides(context)), Console()).plan())


@app.command(
    context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config, or is a parameter of KEY."
)
def plot(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="CONFIG|KEY", help="A YAML or JSON file, or a key.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .svg to write, in place of text.")
    ] = None,
) -> None:
    """Draw lr, and what else is scheduled, over the run, and warn of what looks wrong."""
    from trainer.config import load_config
    from trainer.errors import ConfigError
    from trainer.plots import plot_config, plot_key

    if out is not None and out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out: must end in .png or .svg; got {out}")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}")
    is_file = Path(target).suffix in (".yaml", ".yml", ".json") or Path(target).is_file()
    overrides = _overrides(context)
    lines = plot_config(load_config(target, overrides), out) if is_file else plot_key(target, overrides, out)
    typer.echo("\n".join(lines))


@app.command("list")
def list_keys(
    pattern: Annotated[
        str, typer.Option("--filter", metavar="PATTERN", help="Only keys and aliases that match, with * and ?.")
    ] = "*",
) -> None:
    """List every key that a config can name."""
    from trainer.catalogue import listing

    typer.echo(listing(pattern))


@app.command()
def describe(key: Annotated[str, typer.Argument(metavar="KEY", help="A key, or the dotted path of a class.")]) -> None:
    """Show what a key stands for: its parameters, their types, defaults and ranges."""
    from trainer.catalogue import description

    typer.echo(description(key))


def main() -> None:
    """Run the command line. What a user must know of ends with a message and an exit code of its own."""
    from trainer.errors import (
        ConfigError,
        NonFiniteError,
        SaveError,
        UnreadableError,
        UserCodeError,
        user_frames,
    )

    exit_codes = {SaveError: 1, UnreadableError: 1, ConfigError: 2, UserCodeError: 3, NonFiniteError: 4}
    try:
        app()
    except tuple(exit_codes) as error:
        if isinstance(error, UserCodeError) and error.__cause__ is not None:
            frames = traceback.format_list(user_frames(error.__cause__))
            typer.echo("".join(frames).rstrip(), err=True)
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(next(code for kind, code in exit_codes.items() if isinstance(error, kind)))


@contextmanager
def _interruptible() -> Iterator[None]:
    from trainer.interruption import StoppedBySignal

    try:
        yield
    except StoppedBySignal as stop:
        typer.echo(f"{stop}; `innerstep resume RUN` goes on", err=True)
        raise typer.Exit(STOPPED_AND_SAVED) from None
    except KeyboardInterrupt as interrupt:  # with a message if it is no signal's
        told = str(interrupt) or "interrupted; `innerstep resume RUN` goes on from the newest checkpoint"
        typer.echo(told, err=True)
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # at once: a checkpoint that is being written would be waited for


def _overrides(context: typer.Context) -> dict[str, Any]:
    from trainer.config_file import parse_overrides

    return parse_overrides(context.args)
