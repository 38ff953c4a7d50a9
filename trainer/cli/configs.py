"""The commands on configs."""

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
def plan(context: typer.Context, config: Configs, plugins: Plugins = None) -> None:
    """Show components, optimizers and schedules; train nothing and write nothing."""
    from rich.console import Console

    from ..config.load import load_config
    from ..offline_trainer import OfflineTrainer
    from ..runtime.terminal import output

    with importing_by(config, plugins):
        loaded = load_config(config, typed_overrides(context), allow_plugins=plugins is True)
        output(OfflineTrainer(loaded, Console()).plan())


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
        bool, typer.Option("--origins/--no-origins", help="Whether each line says where its value comes from.")
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
