"""The plan as text for a pipe, and as a table or a list for a terminal, by its width."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from optimizer.config import counted, visible

from ..runtime.streams import write_out
from ..runtime.terminal import on_terminal, show
from .plan import ComponentPlan, Plan
from .tables import GAP, align_columns, count, fit_columns, fold, named_values, size

_COLUMNS = {
    "component": "name",
    "params": "parameters",
    "of the policy": "modules",
    "trains": "trains",
    "optimizer": "optimizer",
    "step": "step",
    "schedule": "schedule",
    "placement": "placement",
}
"""The headings of the table, and the field that is below each."""
_OPTIONAL = ("of the policy", "placement")


def plan_text(plan: Plan) -> str:
    """Return the plan as plain text: a table as wide as it must be, and a line for each note and warning."""
    headings = _headings(plan)
    rows = [headings, *(_cells(component, headings) for component in plan.components)]
    facts = [name + values for name, values in named_values(_facts(plan), None)]
    warnings = [f"warning: {line}" for line in plan.warnings]
    return "\n".join([*align_columns(rows, right=[1]), "", *facts, *plan.notes, *warnings])


def show_plan(console: Console, plan: Plan) -> None:
    """Print the plan on a terminal by its width, and elsewhere as plain text."""
    if on_terminal(console):
        console.print(drawn_plan(plan, console.width), crop=False)
    else:
        show(console, plan_text(plan))


def output_plan(console: Console, plan: Plan) -> None:
    """Print the plan as `show_plan` does, as the output of a command.

    Raises:
        OutputError: It cannot be written.
    """
    with console.capture() as capture:
        show_plan(console, plan)
    write_out(capture.get())


def drawn_plan(plan: Plan, width: int) -> RenderableType:
    """Return the plan for a terminal: a table if one fits into `width`, else a list for each component."""
    headings = _headings(plan)
    rows = [_cells(component, headings) for component in plan.components]
    table = _table(plan, headings, rows, width) or _table(plan, *_merged(headings, rows), width)
    facts = [_line(name, values) for name, values in named_values(_facts(plan), width)]
    notes = [Text(visible(line)) for line in plan.notes]
    warnings = [Text.assemble(("warning: ", "bold yellow"), (visible(line), "yellow")) for line in plan.warnings]
    return Group(table or _blocks(plan, headings, rows, width), Text(), *facts, *notes, *warnings)


def _headings(plan: Plan) -> list[str]:
    """Return the headings of the columns that this plan has."""
    given = {name for name in _OPTIONAL if any(getattr(each, _COLUMNS[name]) for each in plan.components)}
    return [name for name in _COLUMNS if name not in _OPTIONAL or name in given]


def _cells(component: ComponentPlan, headings: Sequence[str]) -> list[str]:
    values = [getattr(component, _COLUMNS[heading]) for heading in headings]
    return ["-" if value is None else count(value) if isinstance(value, int) else visible(value) for value in values]


def _facts(plan: Plan) -> list[tuple[str, list[str]]]:
    """Return the facts on the run as a whole, by name."""
    data, parameters, files = plan.data, plan.parameters, plan.checkpoint_bytes
    several = f"{plan.batches_per_update} batches of " if plan.batches_per_update > 1 else ""
    samples = several + counted(data.batch_size, "sample")
    per_epoch = f"{data.batches_per_epoch} batch{'' if data.batches_per_epoch == 1 else 'es'}"
    updates = f", {counted(plan.updates_per_epoch, 'update')}" if plan.batches_per_update > 1 else ""
    state = files.optimizer_state
    processes = f"{plan.processes} process{'' if plan.processes == 1 else 'es'}"
    return [
        ("run", [f"{counted(plan.updates, 'update')} of {samples}", f"{plan.epochs:.1f} epochs"]),
        ("parameters", [f"{count(parameters[kind])} {kind}" for kind in ("total", "trained", "frozen")]),
        (
            "data",
            [
                f"{counted(data.samples, 'sample')} of {visible(data.type)}",
                f"{per_epoch}{updates} an epoch",
                f"{data.held_out or 'none'} held out",
            ],
        ),
        ("device", [plan.device, plan.device_name, plan.precision, processes]),
        (
            "checkpoint",
            [
                f"about {size(files.total)}" + (" and the optimizers' state" if state is None else ""),
                f"weights {size(files.weights)}",
                *([f"averages {size(files.averages)}"] if files.averages else []),
                *([] if state is None else [f"optimizers {size(state)}"]),
            ],
        ),
    ]


def _merged(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a narrower table, in which the schedule stands below the optimizer."""
    at, end = headings.index("optimizer"), headings.index("schedule") + 1
    merged = []
    for row in rows:
        optimizer, step, schedule = row[at:end]
        lines = [optimizer if step == "-" else f"{optimizer}, {step}", *([] if schedule == "-" else [schedule])]
        merged.append([*row[:at], "\n".join(lines), *row[end:]])
    return [*headings[:at], "optimizer, step, schedule", *headings[end:]], merged


def _table(plan: Plan, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table | None:
    """Return the table of components, or None if it is too wide."""
    widths = fit_columns([headings, *rows], width)
    if widths is None:
        return None
    table = Table(box=None, padding=0, pad_edge=False)
    for heading, column in zip(headings, widths, strict=True):
        table.add_column(_aligned(heading, heading, column), width=column + len(GAP), no_wrap=True)
    table.columns[-1].width = widths[-1]
    for component, row in zip(plan.components, rows, strict=True):
        cells = []
        for heading, cell, column in zip(headings, row, widths, strict=True):
            lines = "\n".join(fold(cell, column))
            cells.append(Text(_aligned(heading, lines, column), style=_style(component, heading), overflow="ignore"))
        table.add_row(*cells)
    return table


def _aligned(heading: str, text: str, width: int) -> str:
    return text.rjust(width) if heading == "params" else text


def _style(component: ComponentPlan, heading: str) -> str:
    if component.optimizer is None:
        return "dim"
    return {"component": "bold cyan", "trains": "green"}.get(heading, "")


def _blocks(plan: Plan, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Group:
    """Return a list of names and values for each component."""
    lines = []
    for component, row in zip(plan.components, rows, strict=True):
        lines.append(Text(row[0], style=_style(component, headings[0])))
        values = [(name, cell) for name, cell in zip(headings[1:], row[1:], strict=True) if cell != "-"]
        indent = max(len(name) for name, _ in values) + 2 * len(GAP)
        for name, cell in values:
            first, *others = fold(cell, max(1, width - indent))
            lines += [_line(f"{GAP}{name}".ljust(indent), first), *(_line(" " * indent, other) for other in others)]
    return Group(*lines)


def _line(name: str, values: str) -> Text:
    return Text.assemble((name, "bold"), values, overflow="ignore", no_wrap=True)
