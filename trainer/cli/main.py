"""The command line. It imports what a command needs when that command runs: --help is instant."""

import os
import signal
import sys
from typing import Annotated

import typer

from ..runtime.streams import steady_process
from .checkpoint import checkpoint_app
from .configs import configs_app
from .contexts import ending_at_once, refuse_several_processes, report_end
from .keys import keys_app
from .looking import looking_app
from .running import running_app

_EXIT_CODES = {
    "0": "done",
    "1": "what was asked for cannot be written or read, or verify and diff found something",
    "2": "a mistake in the command line, the config or a file",
    "3": "an exception in your own code",
    "4": "a loss, a gradient or a weight is NaN or infinite",
    "75": "a run was stopped from outside and saved: resume continues it",
    "130": "interrupted at once",
}
app = typer.Typer(
    name="innerstep",
    help="Train robot policies and other models of named components, each with its own optimizer and schedule.",
    epilog="Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in _EXIT_CODES.items()) + "."
    "\n\nExample: innerstep plan config.yaml, and then innerstep train config.yaml",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _commands in (running_app, looking_app, configs_app, keys_app, checkpoint_app):
    app.add_typer(_commands)

_OF_SEVERAL = ("train", "resume")
"""Commands that several processes run together."""


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


def main() -> None:
    """Run the command line. An expected error ends it with a message and the exit code for its kind."""
    _end_with_torchrun()
    with steady_process(), ending_at_once():
        _run()


def _run() -> None:
    from ..errors import EXPECTED, calls_of, exit_code

    try:
        app(prog_name="innerstep")
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
