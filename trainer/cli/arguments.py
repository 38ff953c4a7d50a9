"""Commands that take overrides of a config before and after their arguments."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand

from ..run_layout import ANCHORS, SECTIONS
from .completion import fields, overrides

KEY = "CONFIG|KEY|RUN"
"""The argument of a command that takes a config or a key, whose parameters are overrides too."""
_CONFIG = "CONFIG"
_ARGUMENTS = (_CONFIG, "RUN", KEY)
_OPTIONS_FOR_CONFIG = ("config", "config-path", "config-file", "cfg")
"""Names of options that are another way to give CONFIG, also with _ for -."""
_ENDINGS = (".yaml", ".yml", ".json")


class OverridesCommand(TyperCommand):
    """A command whose unknown `--key=value` and `--key value` are left for `parse_overrides` in `context.args`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's Context
        """Parse the command's arguments, and set `ctx.args` to the overrides.

        Raises:
            ConfigError: An option of the command is misspelt, or an argument is an override in the form of another
                tool.
        """
        if ctx.resilient_parsing:  # a shell completes the command line, which is not whole
            return super().parse_args(ctx, args)
        own_options = [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == "option"]
        names = {name for option in own_options for name in (*option.opts, *option.secondary_opts)}
        with_values = {name for option in own_options if not _is_flag(option) for name in option.opts}
        options = {name for name in names if name.startswith("-")}
        argument = next((parameter.metavar for parameter in self.params if parameter.metavar in _ARGUMENTS), "") or ""
        given = _with_configs_named(args, options) if argument in (_CONFIG, KEY) else list(args)
        own, overrides = _separate_overrides(given, options, with_values)
        if argument in (_CONFIG, KEY) and not _positionals(own, with_values):
            own, overrides = _with_config_found(own, overrides)
        _refuse_misspelt(overrides, sorted(options), argument, ctx)
        if argument in (_CONFIG, KEY):
            _refuse_other_forms(_positionals(own, with_values))
        rest = super().parse_args(ctx, own)
        ctx.args = [*ctx.args, *overrides]
        return rest

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the command's options, and the fields of the config as options, that begin with `incomplete`."""
        items = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("--") or all(parameter.metavar not in _ARGUMENTS for parameter in self.params):
            return items
        # Of --help: some versions of typer have click inside, others beside them.
        kind = type(super().shell_complete(ctx, "--help")[0])
        return [*items, *(kind(name, help=meaning) for name, meaning in overrides(incomplete))]


def _is_flag(option: object) -> bool:
    return bool(getattr(option, "is_flag", False)) or bool(getattr(option, "count", False))


def _with_configs_named(args: Sequence[str], options: set[str]) -> list[str]:
    """Return the arguments with `--config-path=FILE` and `--config-path FILE` as FILE alone."""
    result: list[str] = []
    remaining = list(args)
    while remaining:
        argument = remaining.pop(0)
        flag, separator, value = argument.partition("=")
        name = flag.removeprefix("--").replace("_", "-")
        if not flag.startswith("--") or name not in _OPTIONS_FOR_CONFIG or flag in options:
            result.append(argument)
        elif value:
            result.append(value)
        elif not separator and remaining and not remaining[0].startswith("--"):
            result.append(remaining.pop(0))
        else:
            from ..errors import ConfigError

            raise ConfigError(f"{flag}: no value; write {flag}=FILE, or FILE alone")
    return result


def _separate_overrides(args: Sequence[str], options: set[str], with_values: set[str]) -> tuple[list[str], list[str]]:
    """Return the command's arguments, and the overrides with their values."""
    own: list[str] = []
    overrides: list[str] = []
    remaining = list(args)
    while remaining:
        argument = remaining.pop(0)
        if argument in with_values:  # its value may look like an argument
            own += [argument, *remaining[:1]]
            del remaining[:1]
        elif not argument.startswith("--") or argument == "--" or argument.partition("=")[0] in options:
            own.append(argument)
        else:
            overrides.append(argument)
            if "=" not in argument and remaining and not remaining[0].startswith("--"):
                overrides.append(remaining.pop(0))
    return own, overrides


def _positionals(own: Sequence[str], with_values: set[str]) -> list[str]:
    """Return those of a command's arguments that are neither options nor values of options."""
    pairs = zip(["", *own[:-1]], own, strict=True) if own else ()
    return [argument for before, argument in pairs if not _is_option(argument) and before not in with_values]


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and "." not in argument.partition("=")[0]


def _with_config_found(own: list[str], overrides: list[str]) -> tuple[list[str], list[str]]:
    """Take the last file that stands after a switch, as in `--train.compile c.yaml`, as the config."""
    for index in range(len(overrides) - 1, 0, -1):
        text, flag = overrides[index], overrides[index - 1]
        is_value = not text.startswith("--") and flag.startswith("--") and "=" not in flag
        if is_value and text.endswith(_ENDINGS) and os.path.isfile(text):
            return [*own, text], [*overrides[:index], *overrides[index + 1 :]]
    return own, overrides


def _refuse_other_forms(arguments: Sequence[str]) -> None:
    """Refuse overrides in the forms `key=value`, `+key=value`, `~key` and `-key=value`.

    Raises:
        ConfigError: There is one.
    """
    from ..config.overrides import other_form
    from ..errors import ConfigError

    for argument in arguments:
        if os.path.exists(argument) or argument.startswith(("hf://", "~/")):
            continue
        if argument.startswith(("-", "+", "~")) or "=" in argument.rpartition("/")[2]:
            raise ConfigError(other_form(argument))


def _refuse_misspelt(overrides: Sequence[str], options: Sequence[str], argument: str, ctx: typer.Context) -> None:
    from ..errors import ConfigError

    command = ctx.info_name or ""
    for override in overrides:
        flag = override.partition("=")[0]
        name = flag.removeprefix("--").removesuffix("+")
        if not override.startswith("--") or "." in name or name in SECTIONS or name.startswith(ANCHORS):
            continue
        if name.replace("_", "-") in _OPTIONS_FOR_CONFIG:
            raise ConfigError(f"{flag}: {command} takes {argument}: innerstep {command} {argument}")
        close = get_close_matches(flag, [*options, *(f"--{section}" for section in SECTIONS)], n=1, cutoff=0.75)
        if close or argument != KEY:  # else it may be a parameter of the key
            meant = (
                f"; did you mean {close[0]}?"
                if close
                else f". Options: {', '.join(options)}; an override is --dotted.key=value."
            )
            other = None if close else _home(name) or _other_command(flag, ctx)
            raise ConfigError(f"{flag}: there is no such option{other or meant}")


def _other_command(flag: str, ctx: typer.Context) -> str | None:
    """Return the end of a message that names the commands which have the option; None: none has it."""
    commands = getattr(ctx.parent and ctx.parent.command, "commands", {})
    having: dict[str, list[str]] = {}
    for name, command in commands.items():
        for parameter in command.params if name != ctx.info_name else ():
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                having.setdefault(option, []).append(name)
    close = get_close_matches(flag, [option for option in having if option.startswith("--")], n=1, cutoff=0.75)
    return f" in {ctx.info_name}; {close[0]} is one of {', '.join(having[close[0]])}" if close else None


def _home(name: str) -> str | None:
    """Return the end of a message that names the field of the config which `name` means; None: there is none."""
    from ..config.homes import home_of

    home = home_of(name.replace("-", "_"), fields())
    return None if home is None else f"; did you mean --{home}?"
