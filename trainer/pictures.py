"""Draws a run's learning rates and losses from its metrics."""

from collections.abc import Sequence
from pathlib import Path

from optimizer.drawing import Panel, Series, figure
from optimizer.files import open_new, replacing
from trainer.errors import missing_extra
from trainer.metrics import METRICS, Line, read_metrics

PICTURES = ("learning_rates.png", "losses.png")


def require_plotting(path: str) -> None:
    """Raise ConfigError if the extra `plot` is not installed. path: what asks for it."""
    try:
        import matplotlib  # noqa: F401 is it there?
    except ImportError as error:
        raise missing_extra(path, "matplotlib", "plot") from error


def draw_pictures(run_dir: Path) -> list[Path]:
    """Draw `learning_rates.png` and `losses.png` into `run_dir`; return their paths."""
    lines = read_metrics(run_dir / METRICS)
    train = [line for line in lines if line["split"] == "train"]
    held_out = [line for line in lines if line["split"] == "held_out"]
    paths = [run_dir / name for name in PICTURES]
    save_figure([_learning_rates(train)], paths[0])
    save_figure([_losses(train, held_out)], paths[1])
    return paths


def save_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels to `path`, a PNG or an SVG by its ending."""
    with replacing(path) as aside:
        draw_new(panels, aside)


def draw_new(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels to the new file `path`, as `save_figure`."""
    with open_new(path) as descriptor, open(descriptor, "wb", closefd=False) as file:
        figure(panels).savefig(file, dpi=120, format=path.suffix[1:])


def _learning_rates(train: list[Line]) -> Panel:
    names = sorted({name for line in train for name in line if name.startswith("lr/")})
    series = [
        Series(name.removeprefix("lr/"), [(line["step"], line[name]) for line in train if name in line])
        for name in names
    ]
    return Panel("Learning rate of each component", "learning rate", series)


def _losses(train: list[Line], held_out: list[Line]) -> Panel:
    series = [
        Series(label, [(line["step"], line["loss"]) for line in lines], style)
        for label, lines, style in (("training batch", train, "-"), ("held out", held_out, "o-"))
        if lines
    ]
    return Panel("Losses", "loss", series, log=True)
