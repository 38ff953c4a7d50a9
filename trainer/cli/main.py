"""The command line. It imports what a command needs when that command runs: --help is instant."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.streams import steady_process
from .arguments import KEY, OverridesCommand
from .checkpoint import checkpoint_app

if TYPE_CHECKING:
    from ..config.overrides import Typed

app = typer.Typer(
    name="innerstep",
    help="Train robot policies and other models of named components, each with its own optimizer and schedule.",
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
_NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Import nothing that is not innerstep's: keys that are built in only.")
]
_PluginsOf = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG", help="A config whose plugins are imported first.")
]


def _print_version(is_given: bool) -> None:
    if is_given:
        from ..runtime.streams import write_out
        from ..runtime.version import innerstep_version

        write_out(f"innerstep {innerstep_version()}\n")
        raise typer.Exit


@app.callback()
def _accept_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Accept the options that stand before a command."""


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config."
)
def train(
    context: typer.Context,
    config: _Config,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the run directory.")
    ] = False,
    no_plugins: _NoPlugins = False,
) -> None:
    """Train an experiment from the start."""
    from ..config.load import load_config
    from ..runs import train as start

    overrides = _parse_overrides(context)
    with _importing(no_plugins), _interruptible():
        start(
            load_config(config, overrides),
            overwrite=overwrite,
            source=None if "train.run_dir" in overrides else config,
        )


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the run's config."
)
def resume(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run's directory, or one of its checkpoints, or its checkpoints/best."),
    ],
    no_plugins: _NoPlugins = False,
) -> None:
    """Continue a run from its newest checkpoint, or from the given one."""
    from ..runs import resume as continue_run

    with _importing(no_plugins), _interruptible():
        continue_run(run, _parse_overrides(context))


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the run's config."
)
def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory. The run may be training.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="PATH", help="latest, best, or the folder of a checkpoint.")
    ] = "latest",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Where to draw rollouts.png, and to write train.evaluation.video videos."
        ),
    ] = None,
    no_plugins: _NoPlugins = False,
) -> None:
    """Run a policy's episodes in its environment, by train.evaluation; write nothing into the run."""
    from ..run_evaluation import evaluate_run
    from ..runtime.terminal import output

    with _importing(no_plugins), _interruptible():
        evaluate_run(run, checkpoint, _parse_overrides(context), out, output)


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the run's config."
)
def export(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory. The run may be training.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="torch: a script that needs torch alone; lerobot: a folder that LeRobot loads.",
        ),
    ],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="PATH", help="latest, best, or the folder of a checkpoint.")
    ] = "latest",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that is in OUT.")] = False,
    no_plugins: _NoPlugins = False,
) -> None:
    """Write a trained run as files that need no innerstep."""
    from ..export_run import export_run
    from ..runtime.terminal import report

    with _importing(no_plugins), _interruptible():
        export_run(run, to, out, checkpoint, overwrite, _parse_overrides(context), report)


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config."
)
def plan(context: typer.Context, config: _Config, no_plugins: _NoPlugins = False) -> None:
    """Show components, optimizers and schedules; train nothing and write nothing."""
    from rich.console import Console

    from ..config.load import load_config
    from ..offline_trainer import OfflineTrainer
    from ..runtime.terminal import output

    with _importing(no_plugins):
        output(OfflineTrainer(load_config(config, _parse_overrides(context)), Console()).plan())


@app.command(
    cls=OverridesCommand,
    context_settings=_TAKES_OVERRIDES,
    epilog="Any --dotted.key=value overrides the config, or is a parameter of KEY.",
)
def plot(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar=KEY, help="A YAML or JSON file, or a key.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .svg to write, in place of text.")
    ] = None,
    no_plugins: _NoPlugins = False,
) -> None:
    """Draw lr and the other scheduled options over the run, and warn of values that look wrong."""
    from ..config.load import load_config
    from ..errors import ConfigError
    from ..reporting.schedule_plots import plot_config, plot_key
    from ..runtime.terminal import output, report

    if out is not None and out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out: must end in .png or .svg; got {out}")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}")
    is_file = Path(target).suffix in (".yaml", ".yml", ".json") or Path(target).is_file() or Path(target).is_fifo()
    overrides = _parse_overrides(context)
    with _importing(no_plugins):
        lines = plot_config(load_config(target, overrides), out) if is_file else plot_key(target, overrides, out)
    if out is None:
        output("\n".join(lines))
    else:
        report("\n".join(lines))


@app.command("list")
def list_keys(
    pattern: Annotated[
        str, typer.Option("--filter", metavar="PATTERN", help="Only keys and aliases that match, with * and ?.")
    ] = "*",
    config: _PluginsOf = None,
    no_plugins: _NoPlugins = False,
) -> None:
    """List every key that a config can name; with --config, those of its plugins too."""
    from ..reporting.registry_listing import listing, plugins_of
    from ..runtime.terminal import output

    with _importing(no_plugins), plugins_of(config):
        output(listing(pattern))


@app.command()
def describe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A key, the dotted path of a class, or a part of the config: train, keep_best, train.device.",
        ),
    ],
    config: _PluginsOf = None,
    no_plugins: _NoPlugins = False,
) -> None:
    """Show the parameters of a key, or the fields of a section of the config: types, ranges, defaults and meanings."""
    from ..reporting.registry_listing import description, plugins_of
    from ..runtime.terminal import output

    with _importing(no_plugins), plugins_of(config):
        output(description(name))


def main() -> None:
    """Run the command line. An expected error ends it with a message and the exit code for its kind."""
    with steady_process():
        _run()


def _run() -> None:
    from ..errors import (
        ConfigError,
        NonFiniteError,
        OutputError,
        SaveError,
        UnreadableError,
        UserCodeError,
        user_calls,
    )

    exit_codes = {
        SaveError: 1,
        OutputError: 1,
        UnreadableError: 1,
        ConfigError: 2,
        UserCodeError: 3,
        NonFiniteError: 4,
    }
    try:
        app()
    except tuple(exit_codes) as error:
        if isinstance(error, UserCodeError) and error.__cause__ is not None:
            cause = error.__cause__
            calls = str(cause) if cause.__traceback__ is None else user_calls(cause)  # as text from another process
            _complain(calls.rstrip())
        _complain(f"error: {error}", "red")
        sys.exit(next(code for kind, code in exit_codes.items() if isinstance(error, kind)))


@contextmanager
def _importing(no_plugins: bool) -> Iterator[None]:
    """Let the body import the modules that a config or a key names, also from the working directory; or refuse to."""
    from optimizer import no_plugins as without_plugins
    from optimizer.config import search_in

    from ..config.plugins import working_directory

    with (
        warnings.catch_warnings(),
        search_in(working_directory()),
        without_plugins() if no_plugins else nullcontext(),
    ):
        warnings.showwarning = _in_one_line(warnings.showwarning)
        yield


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints a PluginWarning in one line, and other warnings by `show`."""
    from optimizer.config import PluginWarning

    def show_warning(message: Warning | str, category: type[Warning], *place: object, **options: object) -> None:
        if issubclass(category, PluginWarning):
            _complain(f"warning: {message}", "yellow")
        else:
            show(message, category, *place, **options)

    return show_warning


@contextmanager
def _interruptible() -> Iterator[None]:
    from ..runtime.signals import StoppedBySignal

    try:
        yield
    except StoppedBySignal as stop:
        _complain(str(stop))
        raise typer.Exit(STOPPED_AND_SAVED) from None
    except KeyboardInterrupt as stop:
        _complain(str(stop) or "interrupted")
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # at once: a checkpoint that is being written would be waited for


def _complain(text: str, style: str | None = None) -> None:
    from ..runtime.terminal import complain

    complain(text, style)


def _parse_overrides(context: typer.Context) -> "dict[str, Typed]":
    from ..config.overrides import parse_overrides

    return parse_overrides(context.args)
