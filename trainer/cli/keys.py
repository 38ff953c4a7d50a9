"""The commands on the keys that a config can name."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import KEY, OverridesCommand
from .completion import described_names, drawn_keys
from .contexts import importing, importing_by
from .options import TAKES_OVERRIDES, NoPlugins, Plugins, PluginsOf, closing, typed_overrides

keys_app = typer.Typer()


@keys_app.command("list", epilog=closing("list --filter 'cos*'"))
def list_keys(
    pattern: Annotated[
        str, typer.Option("--filter", metavar="PATTERN", help="Only keys and aliases that match, with * and ?.")
    ] = "*",
    config: PluginsOf = [],  # noqa: B006 typer copies it
    no_plugins: NoPlugins = False,
) -> None:
    """List every key that a config can name; with --config, those of its plugins too."""
    from ..reporting.registry_listing import listing, plugins_of
    from ..runtime.terminal import output

    with importing(no_plugins), plugins_of(config):
        output(listing(pattern))


@keys_app.command(epilog=closing("describe adamw"))
def describe(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=described_names,
            metavar="NAME",
            help="A key, the dotted path of a class, or a part of the config: train, keep_best, train.device.",
        ),
    ],
    config: PluginsOf = [],  # noqa: B006 typer copies it
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
    epilog=closing(
        "plot cosine --num_warmup_steps=100",
        "Any --dotted.key=value overrides the config, or is a parameter of KEY. With a KEY, --config CONFIG imports the"
        " plugins of a config first.",
    ),
)
def plot(
    context: typer.Context,
    target: Annotated[
        list[str], typer.Argument(autocompletion=drawn_keys, metavar=KEY, help="As for `plan`, or a key.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .png or .svg to write, in place of text.")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Draw lr and the other scheduled options over the run, and warn of values that look wrong."""
    from ..config.load import load_config
    from ..errors import ConfigError
    from ..reporting.registry_listing import plugins_of
    from ..reporting.schedule_plots import plot_config, plot_key
    from ..runtime.terminal import output, report

    if out is not None and out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out: must end in .png or .svg; got {out}")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}")
    overrides = typed_overrides(context)
    configs = [one for one in target if _is_config(one)]
    keys = [one for one in target if one not in configs]
    if len(keys) > 1:
        raise ConfigError(f"{keys[1]}: one key is drawn at a time; the first one is {keys[0]}")
    with importing_by(target, plugins):
        if keys:
            with plugins_of([Path(one) for one in configs]):
                lines = plot_key(keys[0], overrides, out)
        else:
            lines = plot_config(load_config(configs, overrides, allow_plugins=plugins is True), out)
    if out is None:
        output("\n".join(lines))
    else:
        report("\n".join(lines))


def _is_config(target: str) -> bool:
    """Return whether an argument of `plot` is a config, and not a key."""
    from ..runtime.hub import is_reference

    path = Path(target)
    return path.suffix in (".yaml", ".yml", ".json") or path.is_file() or path.is_fifo() or is_reference(target)
