"""The commands that look at runs."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import OverridesCommand
from .completion import runs as found_runs
from .contexts import importing_by
from .options import OVERRIDES, TAKES_OVERRIDES, Configs, Out, Plugins, closing, typed_overrides

looking_app = typer.Typer()


@looking_app.command(epilog=closing("report runs/digits runs/high_lr --out both.html"))
def report(
    runs: Annotated[
        list[str],
        typer.Argument(autocompletion=found_runs, metavar="RUN", help="A run's directory. The run may be training."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page to write: NAME.html. RUN/report.html, or report.html for several."
        ),
    ] = None,
) -> None:
    """Write a page on runs: metrics, config, evaluations, time and checkpoints. It opens in a browser, offline."""
    from ..report_page.report import write_report
    from ..runtime.terminal import report as print_report

    print_report(write_report(runs, out))


@looking_app.command(
    "lr-find",
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("lr-find config.yaml --component head", OVERRIDES),
)
def lr_find(
    context: typer.Context,
    config: Configs,
    component: Annotated[str, typer.Option("--component", metavar="NAME", help="The component whose lr is sought.")],
    first: Annotated[float, typer.Option("--from", metavar="LR", help="The lowest learning rate.")] = 1e-7,
    last: Annotated[float, typer.Option("--to", metavar="LR", help="The highest learning rate.")] = 10.0,
    updates: Annotated[
        int, typer.Option("--updates", metavar="N", help="Learning rates in between, and updates.")
    ] = 100,
    out: Out = None,
    plugins: Plugins = None,
) -> None:
    """Find a learning rate: train one component at rising rates, with the others held. Only --out is written."""
    from rich.console import Console

    from ..config.load import load_config
    from ..lr_finder import LrRange, find_lr
    from ..runtime.terminal import output

    lrs = LrRange(first, last, updates)
    with importing_by(config, plugins):
        loaded = load_config(config, typed_overrides(context), allow_plugins=plugins is True)
        output("\n".join(find_lr(loaded, component, lrs, out, Console())))


@looking_app.command(epilog=closing("doctor runs/digits --json"))
def doctor(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory. The run may be training, or killed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print an object, for other programs.")] = False,
) -> None:
    """Look for faults of a run, with numbers and remedies. Exit code 1: something was found."""
    from ..diagnosis import doctor as checks
    from ..runtime.terminal import output

    evidence, found = checks.examine(run)
    output((checks.as_json if as_json else checks.as_text)(evidence, found))
    raise typer.Exit(int(any(finding.kind == "finding" for finding in found)))
