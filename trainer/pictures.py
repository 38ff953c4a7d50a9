"""Draws a run's learning rates and losses from its metrics."""

from pathlib import Path
from typing import Any

from trainer.errors import missing_extra
from trainer.metrics import Line, read_metrics


def require_plotting() -> None:
    """Raise ConfigError if the extra `plot` is not installed."""
    try:
        import matplotlib  # noqa: F401 is it there?
    except ImportError as error:
        raise missing_extra("train.pictures", "matplotlib", "plot") from error


def draw_pictures(run_dir: Path) -> list[Path]:
    """Draw `learning_rates.png` and `losses.png` into `run_dir`; return their paths."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    train = [line for line in lines if line["split"] == "train"]
    held_out = [line for line in lines if line["split"] == "held_out"]
    paths = [run_dir / "learning_rates.png", run_dir / "losses.png"]
    _save(_learning_rates(train), paths[0])
    _save(_losses(train, held_out), paths[1])
    return paths


def _learning_rates(train: list[Line]) -> Any:
    figure, axes = _axes("Learning rate of each component", "update", "learning rate")
    names = sorted({name for line in train for name in line if name.startswith("lr/")})
    for name in names:
        points = [(line["step"], line[name]) for line in train if name in line]
        axes.plot(*zip(*points, strict=True), label=name.removeprefix("lr/"))
    peaks = [max(line[name] for line in train if name in line) for name in names]
    if max(peaks) > 20 * min(peaks):
        axes.set_yscale("log")  # on one linear scale the smallest curve would be a flat line
    else:
        axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _losses(train: list[Line], held_out: list[Line]) -> Any:
    figure, axes = _axes("Losses", "update", "loss")
    for label, lines, style in (("training batch", train, "-"), ("held out", held_out, "o-")):
        if lines:
            axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], style, label=label)
    axes.set_yscale("log")
    axes.legend()
    return figure


def _axes(title: str, x_label: str, y_label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, dpi=120, format="png")
    aside.replace(path)
