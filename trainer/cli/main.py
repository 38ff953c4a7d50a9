"""The command line. It imports what a command needs when that command runs: --help is instant."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.streams import steady_process
from .arguments import KEY, OverridesCommand
from .checkpoint import checkpoint_app
from .contexts import ending_at_once, importing, importing_by, interruptible, refuse_several_processes, report_end

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

_OF_SEVERAL = ("train", "resume")
"""Commands that several processes run together."""
_TAKES_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML or JSON file, or hf://ORG/NAME or hf://ORG/NAME@REVISION on the hub."
    ),
]
_AnyRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's directory, or hf://ORG/NAME or hf://ORG/NAME@REVISION on the hub. The run may be training.",
    ),
]
_NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Import nothing that is not innerstep's: keys that are built in only.")
]
_Plugins = Annotated[
    bool | None,
    typer.Option(
        "--allow-plugins/--no-plugins",
        help="Whether modules that the config names are imported. By default those of a local one are, and those of one"
        " on the hub are not; --no-plugins: only keys that are built in.",
        show_default=False,
    ),
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
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Accept the options that stand before a command."""
    if context.invoked_subcommand not in _OF_SEVERAL:
        refuse_several_processes(context.invoked_subcommand)


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config."
)
def train(
    context: typer.Context,
    config: _Config,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the run directory.")
    ] = False,
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="Continue the run that is in the run directory, if there is one.")
    ] = False,
    plugins: _Plugins = None,
) -> None:
    """Train an experiment from the start, or from where its run is."""
    from ..config.load import load_config
    from ..runs import train as start
    from ..runtime.hub import is_reference

    overrides = _parse_overrides(context)
    with importing_by(config, plugins), interruptible():
        start(
            load_config(config, overrides, allow_plugins=plugins is True),
            overwrite=overwrite,
            or_resume=or_resume,
            source=None if "train.run_dir" in overrides or is_reference(config) else Path(config),
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

    with importing(no_plugins), interruptible():
        continue_run(run, _parse_overrides(context))


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the run's config."
)
def evaluate(
    context: typer.Context,
    run: _AnyRun,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="PATH", help="latest, best, or the folder of a checkpoint.")
    ] = "latest",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Where to draw rollouts.png, and to write train.evaluation.video videos."
        ),
    ] = None,
    plugins: _Plugins = None,
) -> None:
    """Run a policy's episodes in its environment, by train.evaluation; write nothing into the run."""
    from ..run_evaluation import evaluate_run
    from ..runtime.terminal import output

    with importing_by(run, plugins), interruptible():
        evaluate_run(run, checkpoint, _parse_overrides(context), out, output, plugins is True)


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the run's config."
)
def export(
    context: typer.Context,
    run: _AnyRun,
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
    plugins: _Plugins = None,
) -> None:
    """Write a trained run as files that need no innerstep."""
    from ..export_run import export_run
    from ..runtime.terminal import report

    with importing_by(run, plugins), interruptible():
        export_run(run, to, out, checkpoint, overwrite, _parse_overrides(context), report, plugins is True)


@app.command(
    cls=OverridesCommand, context_settings=_TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config."
)
def plan(context: typer.Context, config: _Config, plugins: _Plugins = None) -> None:
    """Show components, optimizers and schedules; train nothing and write nothing."""
    from rich.console import Console

    from ..config.load import load_config
    from ..offline_trainer import OfflineTrainer
    from ..runtime.terminal import output

    with importing_by(config, plugins):
        loaded = load_config(config, _parse_overrides(context), allow_plugins=plugins is True)
        output(OfflineTrainer(loaded, Console()).plan())


@app.command(
    cls=OverridesCommand,
    context_settings=_TAKES_OVERRIDES,
    epilog="Any --dotted.key=value overrides the config, or is a parameter of KEY.",
)
def plot(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar=KEY, help="As for `plan`, or a key.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .svg to write, in place of text.")
    ] = None,
    plugins: _Plugins = None,
) -> None:
    """Draw lr and the other scheduled options over the run, and warn of values that look wrong."""
    from ..config.load import load_config
    from ..errors import ConfigError
    from ..reporting.schedule_plots import plot_config, plot_key
    from ..runtime.hub import is_reference
    from ..runtime.terminal import output, report

    if out is not None and out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out: must end in .png or .svg; got {out}")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}")
    path = Path(target)
    is_config = path.suffix in (".yaml", ".yml", ".json") or path.is_file() or path.is_fifo() or is_reference(target)
    overrides = _parse_overrides(context)
    with importing_by(target, plugins):
        if is_config:
            lines = plot_config(load_config(target, overrides, allow_plugins=plugins is True), out)
        else:
            lines = plot_key(target, overrides, out)
    if out is None:
        output("\n".join(lines))
    else:
        report("\n".join(lines))


@app.command("import-lerobot")
def import_lerobot(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRAIN_CONFIG", help="LeRobot's train_config.json, a folder that has one, or hf://ORG/NAME."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The YAML file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Write the config of a training run of LeRobot's as a config of innerstep; name what has no place in it."""
    from ..importing.train_config import import_train_config
    from ..runtime.terminal import report

    report("\n".join(import_train_config(source, out, overwrite)))


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

    with importing(no_plugins), plugins_of(config):
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

    with importing(no_plugins), plugins_of(config):
        output(description(name))


@app.command()
def push(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A run's directory, a config's file, or LeRobot's policy folder.")
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository. It is created if need be.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="PATH", help="latest, best, or the folder of a checkpoint.")
    ] = "latest",
    component: Annotated[
        str | None, typer.Option("--component", metavar="NAME", help="Push only this component of the run.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="The branch. It is created if need be.")
    ] = None,
    no_plugins: _NoPlugins = False,
) -> None:
    """Push a run with one checkpoint, a component of it, a config or a policy to the Hugging Face Hub."""
    from ..push import push as push_files
    from ..runtime.terminal import report

    with importing(no_plugins), interruptible():
        reference, lines = push_files(source, repository, checkpoint, component, private or None, revision)
    report("\n".join([*lines, f"pushed: {reference}"]))


def main() -> None:
    """Run the command line. An expected error ends it with a message and the exit code for its kind."""
    _end_with_torchrun()
    with steady_process(), ending_at_once():
        _run()


def _run() -> None:
    from ..errors import EXPECTED, calls_of, exit_code

    try:
        app()
    except EXPECTED as error:
        report_end(error, f"error: {error}", calls_of(error), "red")
        sys.exit(exit_code(error))


def _end_with_torchrun() -> None:
    """Let the process end when torchrun is killed, from the beginning: torch is imported later, and takes seconds."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from ..distributed.environment import torchrun_is_gone
        from ..errors import STOPPED_AND_SAVED
        from ..runtime.parents import end_with_parent

        end_with_parent(signal.SIGTERM)
        if torchrun_is_gone():  # before the line above
            sys.exit(STOPPED_AND_SAVED)


def _parse_overrides(context: typer.Context) -> "dict[str, Typed]":
    from ..config.overrides import parse_overrides

    return parse_overrides(context.args)
