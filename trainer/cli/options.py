"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from .completion import checkpoints, runs

OVERRIDES = "Any --dotted.key=value overrides the config."
OVERRIDES_OF_RUN = "Any --dotted.key=value overrides the run's config."
TAKES_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
Configs = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG",
        help="A YAML or JSON file, or hf://ORG/NAME or hf://ORG/NAME@REVISION on the hub. If several are given, the"
        " later ones win. Also --config-path CONFIG.",
    ),
]
AnyRun = Annotated[
    str,
    typer.Argument(
        autocompletion=runs,
        metavar="RUN",
        help="A run's directory, or hf://ORG/NAME or hf://ORG/NAME@REVISION on the hub. The run may be training.",
    ),
]
Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        autocompletion=checkpoints,
        metavar="PATH",
        help="latest, best, or the folder of a checkpoint.",
    ),
]
NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Import nothing that is not innerstep's: keys that are built in only.")
]
Plugins = Annotated[
    bool | None,
    typer.Option(
        "--allow-plugins/--no-plugins",
        help="Whether modules that the config names are imported. By default those of a local one are, and those of one"
        " on the hub are not; --no-plugins: only keys that are built in.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="A .png, .svg or .pdf to write, in place of text.")
]
PluginsOf = Annotated[
    list[Path], typer.Option("--config", metavar="CONFIG", help="A config whose plugins are imported first.")
]


def closing(example: str, *paragraphs: str) -> str:
    """Return the end of a command's help.

    Args:
        example: A command line, without the program's name.
        paragraphs: They come before it.
    """
    return "\n\n".join([*paragraphs, f"Example: innerstep {example}"])


def typed_overrides(context: typer.Context) -> dict[str, object]:
    """Return the overrides on the command line by dotted key.

    Raises:
        ConfigError: An argument has another form.
    """
    from ..config.overrides import parse_overrides

    return parse_overrides(context.args)
