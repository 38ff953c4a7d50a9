"""`innerstep report`: from runs to the file of a page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from optimizer.config import counted
from optimizer.state import write_new

from ..errors import ConfigError
from ..reporting.run_plots import short_names
from ..reporting.tables import size
from ..run_layout import REPORT
from ..runtime.files import replacing_output
from ..runtime.hub import is_reference
from ..runtime.version import innerstep_version
from .config_values import differing_fields
from .html_page import html_page
from .run_facts import RunFacts
from .saved_files import Budget

MOST_RUNS = 24
"""Runs of a page at most, as there are eight colours with three strokes each."""
_POINT_CHARACTERS = 45
_SERIES_CHARACTERS = 2_600_000
"""Characters of a point, and of all series of a page at most."""


def write_report(runs: Sequence[str], out: Path | None) -> str:
    """Write a page on runs and return a line on it. Nothing that a run names is imported.

    Args:
        runs: Their directories.
        out: The file; None: report.html in the run, or in the working directory if there are several.

    Raises:
        ConfigError: There is no run, or the file cannot be written.
        UnreadableError: The system refuses to read a file of a run.
    """
    folders = _folders(runs)
    out = out or ((folders[0] if len(folders) == 1 else Path()) / REPORT)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out: must end in .html; got {out}")
    facts = [RunFacts(folder, name) for folder, name in zip(folders, short_names(runs), strict=True)]
    _fit(facts)
    budget = Budget()
    values = {
        "version": innerstep_version(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [one.values(out.absolute().parent, budget) for one in facts],
        "differences": differing_fields([one.config for one in facts]) if len(facts) > 1 else [],
    }
    page = html_page(values)
    with replacing_output(out) as aside:
        write_new(aside, page)
    return f"wrote {out}: {counted(len(facts), 'run')}, {size(len(page.encode()))}; open it in a browser"


def _folders(runs: Sequence[str]) -> list[Path]:
    """Return the directories of runs. Raises ConfigError if one is on the hub, or given twice."""
    if len(runs) > MOST_RUNS:
        raise ConfigError(f"RUN: at most {MOST_RUNS} runs fit on a page; got {len(runs)}")
    for run in runs:
        if is_reference(run) or run.startswith("hf:/"):
            raise ConfigError(
                f"{run}: a run on the hub has no metrics to report: `innerstep push` pushes its config and one"
                " checkpoint. Copy the run's directory instead."
            )
    folders = [Path(run) for run in runs]
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise ConfigError(f"RUN: {runs[index]} is given twice")
    return folders


def _fit(facts: Sequence[RunFacts]) -> None:
    """Thin all series out so that the page stays small."""
    series = [one for fact in facts for one in fact.metrics.series.values()]
    for one in series:
        one.shrink(_SERIES_CHARACTERS // (_POINT_CHARACTERS * max(1, len(series))))
