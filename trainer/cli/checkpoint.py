"""`innerstep checkpoint …`: commands that inspect, compare, export and convert checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from .completion import runs
from .options import closing

checkpoint_app = typer.Typer(
    name="checkpoint", help="Inspect, verify, compare, export and convert checkpoints.", no_args_is_help=True
)

_HELP = "A run (its newest checkpoint), a checkpoint's folder, or RUN/checkpoints/latest or best."
_Path = Annotated[Path, typer.Argument(autocompletion=runs, metavar="PATH", help=_HELP)]


@checkpoint_app.command(epilog=closing("checkpoint inspect runs/digits"))
def inspect(path: _Path) -> None:
    """Show the contents of a checkpoint by component."""
    from ..checkpoint.tools.inspect import inspection
    from ..runtime.terminal import output

    with _path_errors():
        text = inspection(path)
    output(text)


@checkpoint_app.command(epilog=closing("checkpoint verify runs/digits"))
def verify(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH…", help="Runs, whose checkpoints are all verified, or checkpoints.")
    ],
) -> None:
    """Check every file against its checksum; exit with 1 if anything is damaged."""
    from ..checkpoint.tools.inspect import verification
    from ..runtime.terminal import output

    with _path_errors():
        results = [verification(path) for path in paths]
    output("\n".join(text for _, text in results))
    if not all(whole for whole, _ in results):
        raise typer.Exit(1)


@checkpoint_app.command(epilog=closing("checkpoint diff runs/a/checkpoints/best runs/b/checkpoints/best"))
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help=_HELP)],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same.")],
    show_all: Annotated[bool, typer.Option("--all", help="Show tables whole, not their first 20 rows.")] = False,
) -> None:
    """Show the differences between two checkpoints; exit with 0 if they are identical, with 1 if not."""
    from ..checkpoint.tools.diff import differences
    from ..runtime.terminal import output

    with _path_errors():
        identical, text = differences(first, second, show_all)
    output(text)
    if not identical:
        raise typer.Exit(1)


@checkpoint_app.command(epilog=closing("checkpoint export runs/digits --out digits.safetensors"))
def export(
    path: _Path,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .safetensors file to write.")],
    component: Annotated[
        str | None, typer.Option("--component", metavar="NAME", help="Only this one, with its own names of parameters.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    ema: Annotated[bool, typer.Option(help="Write the averages of train.ema, or the weights of training.")] = True,
) -> None:
    """Write the weights as one plain safetensors file."""
    from ..checkpoint.tools.export import export_weights
    from ..runtime.terminal import report

    with _path_errors():
        report(export_weights(path, out, component, overwrite, ema))


@checkpoint_app.command(epilog=closing("checkpoint convert runs/digits digits_torch --to torch"))
def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A run, a checkpoint or a component's folder; LeRobot's; NAME.pt's."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="innerstep, lerobot or torch.")],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="Gives the names of parameters without names.")
    ] = None,
    component: Annotated[
        str | None,
        typer.Option("--component", metavar="NAME", help="Only this one; for LeRobot, its name in innerstep."),
    ] = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Import nothing that CONFIG names.")] = False,
) -> None:
    """Convert weights and optimizers from LeRobot or plain PyTorch, or to them."""
    from optimizer import no_plugins as without_plugins

    from ..checkpoint.tools.convert import convert as write_converted
    from ..runtime.terminal import report

    with _path_errors(), without_plugins() if no_plugins else nullcontext():
        report("\n".join(write_converted(source, out, to, config, component)))


@contextmanager
def _path_errors() -> Iterator[None]:
    """Run the body. An error about a path or its contents ends the command with a message and exit code 2."""
    from ..errors import ConfigError

    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
