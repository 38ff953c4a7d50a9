"""What the command's tools cost with many parameters, many components and many lines of metrics: CPU time, and by how
many MB the process grows at most. Each tool runs in a process of its own; a time that is linear grows as the size."""

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

import torch
from measuring import SHORT, extra_memory, machine
from rich.console import Console
from torch import Tensor, nn

from trainer import train
from trainer.cli.main import main as command

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parent.parent / "tests" / "support"),
]  # its parts, by name

PARAMETERS, COMPONENTS, LINES = (5_000, 20_000), (100, 500), (100_000, 1_000_000)
if SHORT:
    PARAMETERS, COMPONENTS, LINES = (5, 10), (2, 4), (10, 20)
LINE = {
    "split": "train",
    "step": 0,
    "epoch": 0,
    **dict.fromkeys(("loss", "loss/squared", "size"), 2.911398172),
    **{f"{name}/{part}": 0.123456789 for name in ("lr", "grad_norm", "skipped") for part in ("first", "second")},
    "updates_per_second": 1234.56,
    "data_wait": 0.1234,
}


class Many(nn.Module):
    """A module of `count` parameters of one value."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the sum of all values."""
        return x + torch.cat(list(self.values)).sum()


def many_parameters(folder: Path, count: int) -> dict[str, Any]:
    """Return the config of a run with one component of `count` parameters."""
    return _config(folder, {"many": {"type": "tools_at_scale.Many", "params": {"count": count}}})


def many_components(folder: Path, count: int) -> dict[str, Any]:
    """Return the config of a run with `count` components of 4 parameters."""
    return _config(folder, {f"c{index}": {"type": "normed"} for index in range(count)})


def _config(folder: Path, components: dict[str, Any]) -> dict[str, Any]:
    run = {"objective": {"type": "regression"}, "total_steps": 2, "save_every": 1, "run_dir": str(folder / "run")}
    return {
        "plugins": ["sample_parts"],
        "data": {"type": "noise", "batch_size": 8},
        "model": {"components": components, "component_optims": {name: {"type": "adamw"} for name in components}},
        "train": {**run, "device": "cpu"},
    }


def tools(folder: Path, config: dict[str, Any]) -> dict[str, list[str]]:
    """Return the arguments of each tool by name, in an order in which each finds what it needs."""
    run, first = str(folder / "run"), str(folder / "run/checkpoints/step_00000001")
    torch_files, other = str(folder / "torch"), f"--train.run_dir={folder / 'other'}"
    components = {
        name: {**fields, "init_from": {"path": run, "optimizer": True}}
        for name, fields in config["model"]["components"].items()
    }
    again = {**config, "model": {**config["model"], "components": components}}
    for name, raw in (("config", config), ("again", again)):  # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps(raw))
    return {
        "plan": ["plan", str(folder / "config.yaml")],
        "plot": ["plot", str(folder / "config.yaml")],
        "resume, 1 update": ["resume", run, "--train.total_steps=3"],
        "checkpoint inspect": ["checkpoint", "inspect", run],
        "checkpoint verify": ["checkpoint", "verify", run],
        "checkpoint diff": ["checkpoint", "diff", run, first],
        "checkpoint export": ["checkpoint", "export", run, "--out", str(folder / "all.safetensors")],
        "checkpoint convert, to torch": ["checkpoint", "convert", run, torch_files, "--to", "torch"],
        "checkpoint convert, back": ["checkpoint", "convert", torch_files, str(folder / "back"), "--to", "innerstep"],
        "train, 2 updates, init_from with state": ["train", str(folder / "again.yaml"), other],
    }


def cost(arguments: list[str]) -> tuple[float, float]:
    """Return the CPU time of the command in seconds, and the MB by which this process grows."""
    sys.argv = ["innerstep", *arguments]
    sys.stdout = sys.stderr = printed = io.StringIO()

    def run() -> None:
        try:
            command()
        except SystemExit as end:
            if end.code not in (0, None, 1 if "diff" in arguments else 0):  # checkpoints that differ end with 1
                raise RuntimeError(f"{arguments}: ended with {end.code}: {printed.getvalue()[-2000:]}") from end

    start = process_time()
    grown = extra_memory(run)
    return process_time() - start, grown / 1e6


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` does in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def trained(config: dict[str, Any]) -> None:
    """Train a run that the tools then work on."""
    train(config, console=Console(file=io.StringIO()))


def table(what: str, sizes: tuple[int, int], make: Callable[[Path, int], dict[str, Any]]) -> str:
    """Return a table of what each tool costs at two sizes."""
    costs: dict[str, list[tuple[float, float]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            config = make(Path(place), size)
            alone(trained, config)
            for name, arguments in tools(Path(place), config).items():
                costs.setdefault(name, []).append(alone(cost, arguments))
    return _rows(what, sizes, costs)


def metrics() -> str:
    """Return a table of what a resume costs after so many lines of metrics, of which none or one is not ours."""
    costs: dict[str, list[tuple[float, float]]] = {}
    for lines in LINES:
        for name, odd in (("resume, 1 update", ""), ("resume, with a foreign line", "a note\n")):
            with tempfile.TemporaryDirectory() as place:
                alone(trained, many_parameters(Path(place), 1))
                with (Path(place) / "run/metrics.jsonl").open("w") as file:
                    file.writelines([json.dumps(LINE) + "\n"] * lines + [odd, json.dumps(LINE | {"step": 2}) + "\n"])
                arguments = ["resume", str(Path(place) / "run"), "--train.total_steps=3"]
                costs.setdefault(name, []).append(alone(cost, arguments))
    return _rows("lines of metrics", LINES, costs)


def _rows(what: str, sizes: tuple[int, int], costs: dict[str, list[tuple[float, float]]]) -> str:
    header = [f"{size:,} {what}{unit}" for size in sizes for unit in (", s", ", MB more")]
    rows = [
        f"| {name} | " + " | ".join(f"{seconds:.1f} | {grown:.0f}" for seconds, grown in measured) + " |"
        for name, measured in costs.items()
    ]
    return "\n".join([f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|", *rows])


def tables() -> Iterator[str]:
    """Yield the tables as they are ready: all of them take minutes."""
    yield table("parameters", PARAMETERS, many_parameters)
    yield table("components", COMPONENTS, many_components)
    yield metrics()


def measured() -> str:
    """Return all tables."""
    return "\n\n".join(tables())


if __name__ == "__main__":
    print(machine(), flush=True)
    for one in tables():
        print(f"\n{one}", flush=True)
