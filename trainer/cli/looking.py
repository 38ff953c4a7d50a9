"""The commands that look at runs."""

from pathlib import Path
from typing import Annotated

import typer

looking_app = typer.Typer()


@looking_app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="A run's directory, or several. A run may be training.")
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
