"""Panels as text for the terminal, or as a file."""

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from optimizer.charts import Panel, figure, text
from optimizer.state import replacing

from ..errors import ConfigError, missing_extra
from ..runtime.files import replacing_output

ENDINGS = (".png", ".svg", ".pdf")
_AXIS_COLUMNS = 11
_WIDEST = 120
_DOTS_PER_INCH = 120


def require_plotting(path: str) -> None:
    """Check that the extra `plot` is installed.

    Args:
        path: The field or option that needs it, for the message.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("matplotlib") is None:  # it is imported when it draws: that takes long
        raise missing_extra(path, "matplotlib", "plot")


def check_out(out: Path | None) -> None:
    """Check a file that `--out` names, before the work that takes time.

    Raises:
        ConfigError: It has another ending, its folder is not there, or the extra `plot` is missing.
    """
    if out is None:
        return
    if out.suffix not in ENDINGS:
        raise ConfigError(f"--out: must end in .png, .svg or .pdf; got {out}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}")
    require_plotting("--out")


def draw(panels: Sequence[Panel], out: Path | None, together: bool = False) -> list[str]:
    """Return the panels as lines of text; or write them to a file that the user asked for, and return a line.

    Args:
        panels: The panels.
        out: A .png, .svg or .pdf; None: text.
        together: Whether the lines of a panel share a chart of text.

    Raises:
        ConfigError: The file cannot be written.
    """
    if out is None:
        columns = min(_WIDEST, shutil.get_terminal_size((72 + _AXIS_COLUMNS, 24)).columns)
        return text(panels, max(20, columns - _AXIS_COLUMNS), together=together).splitlines()
    require_plotting("--out")
    with replacing_output(out) as aside:
        write_figure(panels, aside)
    return [f"drew {out}"]


def save_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels to `path`, whose ending is one of ENDINGS. A file that is there is replaced."""
    with replacing(path) as aside:
        write_figure(panels, aside)


def write_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels to the new file `path`, as `save_figure`."""
    with path.open("xb") as file:
        drawn = figure(panels, columns=1 if len(panels) <= 3 else 2)
        drawn.savefig(file, dpi=_DOTS_PER_INCH, format=path.suffix[1:])
