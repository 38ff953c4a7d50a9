"""The commands on the keys that a config can name."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import KEY, OverridesCommand
from .contexts import importing, importing_by
from .options import TAKES_OVERRIDES, NoPlugins, Plugins, PluginsOf, typed_overrides

keys_app = typer.Typer()


@keys_app.command("list")
def list_keys(
    pattern: Annotated[
        str, typer.Option("--filter", metavar="PATTERN", help="Only keys and aliases that match, with * and ?.")
    ] = "*",
    config: PluginsOf = None,
    no_plugins: NoPlugins = False,
) -> None:
    """List every key that a config can name; with --config, those of its plugins too."""
    from ..reporting.registry_listing import listing, plugins_of
    from ..runtime.terminal import output

    with importing(no_plugins), plugins_of(config):
        output(listing(pattern))


@keys_app.command()
def describe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A key, the dotted path of a class, or a part of the config: train, keep_best, train.device.",
        ),
    ],
    config: PluginsOf = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Show the parameters of a key, or the fields of a section of the config: types, ranges, defaults and meanings."""
    from ..reporting.registry_listing import description, plugins_of
    from ..runtime.terminal import output

    with importing(no_plugins), plugins_of(config):
        output(description(name))


@keys_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog="Any --dotted.key=value overrides the config, or is a parameter of KEY.",
)
def plot(
    context: typer.Context,
    target: Annotated[list[str], typer.Argument(metavar=KEY, help="As for `plan`, or a key.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .svg to write, in place of text.")
    ] = None,
    plugins: Plugins = None,
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
    path = Path(target[0])
    is_file = path.suffix in (".yaml", ".yml", ".json") or path.is_file() or path.is_fifo()
    is_config = is_file or len(target) > 1 or is_reference(target[0])
    overrides = typed_overrides(context)
    with importing_by(target, plugins):
        if is_config:
            lines = plot_config(load_config(target, overrides, allow_plugins=plugins is True), out)
        else:
            lines = plot_key(target[0], overrides, out)
    if out is None:
        output("\n".join(lines))
    else:
        report("\n".join(lines))
