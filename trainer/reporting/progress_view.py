"""The progress of a run as text: the live display of a terminal, and a line on a pipe."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from optimizer.config import counted, visible

from .run_status import RunStatus, components_of, values_of
from .tables import GAP, align_columns, duration, named_values, number, rate, size, wrap_entries

_LEAST_BAR = 10
"""Columns of the bar at least, if it shares a line."""
_BETWEEN = " " * 4
"""Between two components in a line."""
_NOT_FINITE = r"\b(nan|inf)\b"


def values_text(values: Mapping[str, float]) -> list[str]:
    """Return an entry for each loss or metric."""
    return [f"{name} {number(float(value))}" for name, value in values.items()]


def evaluation_entries(status: RunStatus) -> list[tuple[str, list[str]]]:
    """Return the last and the best evaluation, by name."""
    rows = []
    if (last := status.evaluation) is not None:
        rows.append(("evaluation", [*values_text(last.metrics), f"after {counted(last.step, 'update')}"]))
    if status.best is not None:
        name, value, step = status.best
        rows.append(("best", [f"{name} {number(value)}", f"after {counted(step, 'update')}"]))
    return rows


def line_on_a_pipe(status: RunStatus) -> str:
    """Return the line on the last logged update."""
    done, whole = status.epochs()
    entries = [f"update {status.step}/{status.horizon.total_steps}", f"epoch {done:.1f}/{whole:.1f}"]
    entries += values_text(values_of(status.line or {}))
    entries += [*_speed(status), f"elapsed {duration(status.elapsed())}", *_time_left(status)]
    return GAP.join(entries)


@dataclass(frozen=True)
class ProgressView:
    """The live display of a run. Each rendering shows the present moment."""

    status: RunStatus
    memory: Callable[[], int | None]
    """Returns the bytes that the run takes."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, status = options.max_width, self.status
        total = status.horizon.total_steps
        place = [
            f"{status.step}/{total}",
            f"{100 * status.step // total}%",
            duration(status.elapsed()),
            *_time_left(status),
        ]
        beside = GAP + GAP.join(place)
        is_beside = width - len(beside) >= _LEAST_BAR
        columns = width - len(beside) if is_beside else width
        # colours of the user's terminal, which may be light or dark
        yield ProgressBar(total, status.step, columns, style="dim", complete_style="cyan", finished_style="cyan")
        if is_beside:
            yield Segment(beside)
        yield Segment.line()
        text = Text(overflow="fold")
        if not is_beside:
            text.append("\n".join([*wrap_entries(place, width), ""]))
        for name, values in named_values(self._rows(), width):
            text.append(visible(name), "bold").append(f"{visible(values)}\n")
        for line in component_lines(components_of(status.line or {}), width):
            text.append(f"{visible(line)}\n", "bold" if line.startswith(GAP) else "")
        text.right_crop(1)
        text.highlight_regex(_NOT_FINITE, "bold red")
        yield text

    def _rows(self) -> list[tuple[str, list[str]]]:
        status, line = self.status, self.status.line or {}
        done, whole = status.epochs()
        waits = [f"data wait {line['data_wait']:.0%}"] if "data_wait" in line else []
        used = self.memory()
        rows = [
            ("training", values_text(values_of(line))),
            *evaluation_entries(status),
            ("epoch", [f"{done:.1f} of {whole:.1f}"]),
            ("speed", [*_speed(status), *waits]),
            ("memory", [] if used is None else [size(used)]),
        ]
        if status.saved is not None:
            step, at = status.saved
            ago = f"{duration(status.clock() - at)} ago"
            rows.append(("checkpoint", [f"after {counted(step, 'update')}", ago]))
        return rows


def component_lines(components: Mapping[str, Mapping[str, float]], width: int) -> Iterator[str]:
    """Yield lines with the values of each component, in columns; several components share a line if they fit."""
    kinds = list(
        dict.fromkeys(kind for values in components.values() for kind in values if _is_shown(kind, components))
    )
    if not kinds:
        return
    rows = [["", *(kind.replace("_", " ") for kind in kinds)]]
    rows += [[name, *(_cell(kind, values) for kind in kinds)] for name, values in components.items()]
    head, *lines = align_columns(rows, right=range(1, len(kinds) + 1))
    cell = max(map(len, [head, *lines]))
    if cell > width:
        for name, values in components.items():
            yield name
            entries = [f"{kind.replace('_', ' ')} {_cell(kind, values)}" for kind in kinds]
            yield from (" " + line for line in wrap_entries(entries, width - 1))
        return
    beside = max(1, min(len(lines), (width + len(_BETWEEN)) // (cell + len(_BETWEEN))))
    yield _BETWEEN.join([head.ljust(cell)] * beside).rstrip()
    for first in range(0, len(lines), beside):
        yield _BETWEEN.join(line.ljust(cell) for line in lines[first : first + beside]).rstrip()


def _is_shown(kind: str, components: Mapping[str, Mapping[str, float]]) -> bool:
    """Return whether a kind of values is shown: of updates that were skipped only if there are some."""
    return kind != "skipped" or any(values.get(kind) for values in components.values())


def _cell(kind: str, values: Mapping[str, float]) -> str:
    if kind not in values:
        return "-"
    value = float(values[kind])
    return f"{value:.2e}" if kind == "lr" else str(int(value)) if kind == "skipped" else number(value)


def _speed(status: RunStatus) -> list[str]:
    pace, samples = status.pace(), status.samples_per_second()
    return [] if pace is None or samples is None else [f"{rate(pace)} updates/s", f"{rate(samples)} samples/s"]


def _time_left(status: RunStatus) -> list[str]:
    seconds = status.remaining()
    return [] if seconds is None else [f"ETA {duration(seconds)}"]
