"""The commands on the keys that a config can name."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import KEY, OverridesCommand
from .completion import described_names, drawn_keys
from .contexts import importing, importing_by
from .options import TAKES_OVERRIDES, NoPlugins, Out, Plugins, PluginsOf, closing, typed_overrides

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
    targets: Annotated[
        list[str],
        typer.Argument(
            autocompletion=drawn_keys,
            metavar=KEY,
            help="As for `plan`, a key, or the directory of a run, or of several.",
        ),
    ],
    out: Out = None,
    smooth: Annotated[
        float,
        typer.Option("--smooth", metavar="WEIGHT", help="Of runs: average over neighbouring values; 0 to 0.99."),
    ] = 0.0,
    plugins: Plugins = None,
) -> None:
    """Draw the schedules of a config or key, with warnings; or the losses, metrics, gradients and lr of runs."""
    from ..errors import ConfigError
    from ..reporting.plot_files import check_out
    from ..reporting.run_plots import plot_runs
    from ..runtime.terminal import output, report

    check_out(out)
    overrides = typed_overrides(context)
    if Path(targets[0]).is_dir():
        if overrides:
            raise ConfigError(f"--{next(iter(overrides))}: a run is drawn as it is; overrides are for a config or key")
        lines = plot_runs(targets, out, smooth)
    elif smooth:
        raise ConfigError("--smooth: is for runs; a schedule is drawn as it is")
    else:
        lines = _plot_schedules(targets, overrides, out, plugins)
    (output if out is None else report)("\n".join(lines))


def _plot_schedules(
    targets: list[str], overrides: dict[str, object], out: Path | None, plugins: bool | None
) -> list[str]:
    from ..config.load import load_config
    from ..errors import ConfigError

    configs = [one for one in targets if _is_config(one)]
    keys = [one for one in targets if one not in configs]
    if len(keys) > 1:
        raise ConfigError(f"{keys[1]}: one key is drawn at a time; the first one is {keys[0]}")
    with importing_by(targets, plugins):
        if not keys:
            config = load_config(configs, overrides, allow_plugins=plugins is True)
            from ..reporting.schedule_plots import plot_config

            return plot_config(config, out)
        from ..reporting.registry_listing import plugins_of
        from ..reporting.schedule_plots import plot_key

        with plugins_of([Path(one) for one in configs]):
            return plot_key(keys[0], overrides, out)


def _is_config(target: str) -> bool:
    """Return whether an argument of `plot` is a config, and not a key."""
    from ..runtime.hub import is_reference

    path = Path(target)
    return path.suffix in (".yaml", ".yml", ".json") or path.is_file() or path.is_fifo() or is_reference(target)
