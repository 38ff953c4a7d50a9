"""Commands that take overrides of a config before and after their arguments."""

from collections.abc import Sequence
from difflib import get_close_matches

import typer
from typer.core import TyperCommand

from ..run_layout import SECTIONS

KEY = "CONFIG|KEY|RUN..."
"""The argument of a command that takes a config or a key, whose parameters are overrides too."""
_ARGUMENTS = ("CONFIG", "RUN", KEY)
_CONFIG = ("config", "config-path", "config-file", "config-name", "cfg")
"""Names that other tools give the option for the config."""


class OverridesCommand(TyperCommand):
    """A command whose unknown `--key=value` and `--key value` are left for `parse_overrides` in `context.args`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's Context
        """Parse the command's arguments, and set `ctx.args` to the overrides.

        Raises:
            ConfigError: An option of the command is misspelt.
        """
        names = (name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts))
        options = {name for name in names if name.startswith("-")}
        argument = next((parameter.metavar for parameter in self.params if parameter.metavar in _ARGUMENTS), "")
        own, overrides = _separate_overrides(args, options)
        _refuse_misspelt(
            overrides,
            sorted(option for option in options if option.startswith("-")),
            argument,
            f"innerstep {ctx.info_name} {argument}",
        )
        rest = super().parse_args(ctx, own)
        ctx.args = [*ctx.args, *overrides]
        return rest


def _separate_overrides(args: Sequence[str], options: set[str]) -> tuple[list[str], list[str]]:
    """Return the command's arguments, and the overrides with their values."""
    own: list[str] = []
    overrides: list[str] = []
    remaining = list(args)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--") or argument == "--" or argument.partition("=")[0] in options:
            own.append(argument)
            continue
        overrides.append(argument)
        if "=" not in argument and remaining and not remaining[0].startswith("--"):
            overrides.append(remaining.pop(0))
    return own, overrides


def _refuse_misspelt(overrides: Sequence[str], options: Sequence[str], argument: str, usage: str) -> None:
    from ..errors import ConfigError

    for override in overrides:
        flag = override.partition("=")[0]
        name = flag.removeprefix("--")
        if not override.startswith("--") or "." in name or name in SECTIONS:
            continue
        if argument == "CONFIG" and name.replace("_", "-") in _CONFIG:
            raise ConfigError(f"{flag}: the config is an argument and not an option: {usage}")
        close = get_close_matches(flag, [*options, *(f"--{section}" for section in SECTIONS)], n=1, cutoff=0.75)
        if close or argument != KEY:  # else it may be a parameter of the key
            meant = (
                f"; did you mean {close[0]}?"
                if close
                else f". Options: {', '.join(options)}; an override is --dotted.key=value."
            )
            raise ConfigError(f"{flag}: there is no such option{meant}")
