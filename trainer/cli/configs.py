"""The commands on configs."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from .arguments import OverridesCommand
from .contexts import importing, importing_by, without_collection
from .options import OVERRIDES, TAKES_OVERRIDES, Configs, NoPlugins, Plugins, closing, typed_overrides

configs_app = typer.Typer()

_VALIDATED = (
    "The modules that the config names are imported. Nothing is built, and the machine does not matter. `plan` also"
    " loads the data and builds everything: it finds shapes that do not fit together, weights and devices that are"
    " not there."
)
_READ_BY_EDITORS = (
    "It is of draft 7. An editor with the YAML language server reads it if the first line of the config is"
    " `# yaml-language-server: $schema=config.schema.json`."
)


@configs_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("plan config.yaml", OVERRIDES),
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
    from ..runtime.terminal import output

    with importing_by(config, plugins):
        with without_collection():
            loaded = load_config(config, typed_overrides(context), allow_plugins=plugins is True)
            from ..offline_trainer import OfflineTrainer
            from ..reporting.plan_table import output_plan
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
    epilog=closing("config config.yaml --train.total_steps=100", OVERRIDES),
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
    from ..config.load import load_completed
    from ..runtime.streams import write_out

    with importing_by(config, plugins):
        with without_collection():
            loaded, completed = load_completed(config, typed_overrides(context), plugins is True)
            from ..reporting.resolved_config import resolved_text
        write_out(resolved_text(loaded, completed, origins))


@configs_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("validate --each configs/*.yaml", _VALIDATED, OVERRIDES),
)
def validate(
    context: typer.Context,
    config: Configs,
    each: Annotated[
        bool, typer.Option("--each", help="Check each CONFIG by itself. By default several are one config, as in plan.")
    ] = False,
    plugins: Plugins = None,
) -> None:
    """Check a config without its data: names, types, ranges, parameters of every class, lengths of schedules."""
    from ..check_config import check_config
    from ..config.load import load_config
    from ..errors import ConfigError
    from ..runtime.terminal import output

    overrides = typed_overrides(context)
    mistakes = []
    for sources in [[source] for source in config] if each else [config]:
        with importing_by(sources, plugins):
            try:
                check_config(load_config(sources, overrides, allow_plugins=plugins is True))
            except ConfigError as error:
                mistakes.append(str(error))
            else:
                output(f"{', '.join(sources)}: valid")
    if mistakes:
        raise ConfigError("\n".join(mistakes))


@configs_app.command(epilog=closing("schema config.yaml --out config.schema.json", _READ_BY_EDITORS))
def schema(
    config: Annotated[
        list[Path],
        typer.Argument(metavar="CONFIG", help="A config whose plugins and classes by dotted path are in it too."),
    ] = [],  # noqa: B006 typer copies it
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write. By default it is printed.")
    ] = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Print a JSON Schema of a config, by which an editor completes and checks it."""
    from ..reporting.config_schema import schema_text, write_schema
    from ..runtime.files import replacing_output
    from ..runtime.streams import write_out
    from ..runtime.terminal import report

    with importing(no_plugins):
        if out is None:
            write_out(schema_text(config))
            return
        with replacing_output(out) as aside:
            write_schema(aside, config)
    report(f"wrote {out}")


@configs_app.command("import-lerobot", epilog=closing("import-lerobot hf://lerobot/act_pusht act.yaml"))
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


@configs_app.command(epilog=closing("init my_project --template policy"))
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIRECTORY]", help="The project's folder.")] = Path(),
    template: Annotated[
        str,
        typer.Option(
            "--template",
            metavar="NAME",
            help="digits: a classifier; policy: behaviour cloning; actor-critic: offline reinforcement learning.",
        ),
    ] = "digits",
) -> None:
    """Write a project that trains: a config, modules with custom classes, and the next commands; overwrite nothing."""
    from ..reporting.config_schema import schema_text
    from ..runtime.terminal import report
    from ..templates import new_project

    with importing(no_plugins=False):
        lines = new_project(directory, template, lambda config: schema_text([config]))
    report("\n".join(lines))
