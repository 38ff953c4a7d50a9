"""The commands on configs."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from .arguments import OverridesCommand
from .contexts import importing_by
from .options import TAKES_OVERRIDES, Configs, Plugins, typed_overrides

configs_app = typer.Typer()


@configs_app.command(
    cls=OverridesCommand, context_settings=TAKES_OVERRIDES, epilog="Any --dotted.key=value overrides the config."
)
def plan(
    context: typer.Context,
    config: Configs,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
    plugins: Plugins = None,
) -> None:
    """Show what would be trained, on which data, and how; train nothing and write nothing."""
    from rich.console import Console

    from ..config.load import load_config
    from ..offline_trainer import OfflineTrainer
    from ..reporting.plan_table import output_plan
    from ..runtime.terminal import output

    with importing_by(config, plugins):
        loaded = load_config(config, typed_overrides(context), allow_plugins=plugins is True)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a data set may print
            trainer = OfflineTrainer(loaded, Console())
        if as_json:
            output(json.dumps(trainer.plan().as_json(), indent=2))
        else:
            output_plan(trainer.console, trainer.plan())


@configs_app.command(
    "config",
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog="Any --dotted.key=value overrides the config.",
)
def show_config(
    context: typer.Context,
    config: Configs,
    origins: Annotated[
        bool, typer.Option("--origins/--no-origins", help="Whether each line has the place that its value comes from.")
    ] = True,
    plugins: Plugins = None,
) -> None:
    """Print the whole config as YAML, with defaults, and where each value comes from; write nothing."""
    from ..config.reading import read_completed
    from ..config.schema import ExperimentConfig
    from ..reporting.resolved_config import resolved_text
    from ..runtime.streams import write_out

    with importing_by(config, plugins):
        loaded, completed = read_completed(ExperimentConfig, config, typed_overrides(context), plugins is True)
        write_out(resolved_text(loaded, completed, origins))


@configs_app.command("import-lerobot")
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
