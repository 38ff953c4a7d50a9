"""Traces the project's own calls from a YAML file to the first step, in one save and in one step.

Usage: `python benchmarks/walks.py ROOT`, where ROOT holds `optimizer/` and `trainer/` and is first on PYTHONPATH.
Prints JSON. `benchmarks/structure.py` runs it and prints the figures as a table.

Only public names are used: `trainer.load_config`, `trainer.train` and the two registries. The rest is found by
behaviour: a step is a call of `step` of an object that has a `scheduler`; a save is the outermost call that begins
after an update and writes the first manifest.
"""

import io
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from rich.console import Console

CONFIG = """
seed: 0
data: {{type: digits, batch_size: 32}}
model:
  components:
    encoder: {{type: mlp, params: {{in_features: 16, out_features: 16, hidden: [16]}}}}
    head: {{type: mlp, params: {{in_features: 16, out_features: 10, hidden: [16]}}}}
  component_optims:
    encoder:
      type: adamw_warmup_cosine_decay
      params: {{peak_lr: 2.0e-3, start_lr: 1.0e-5, end_lr: 1.0e-5, warmup_steps: 2}}
    head: {{type: schedule_free_radam, params: {{lr: 2.5e-3}}}}
train:
  objective: {{type: classification, params: {{wiring: ["code = encoder(profile)", "scores = head(code)"]}}}}
  total_steps: 6
  save_every: 4
  pictures: false
  run_dir: {run_dir}
"""
MANIFEST = "manifest.json"
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")  # not counted: no function has its name there
COPIES = ("__copy__", "__deepcopy__", "model_construct")


class Event(NamedTuple):
    """A call, resume (of a generator) or return of the project's code; or an instance "made" or "copied"; or a
    "manifest" opened."""

    kind: str
    is_main: bool
    place: str
    name: str
    steps: str = ""
    """Class of the optimizer whose `step` it is."""


class Recorder:
    """Records the events of a run.

    Args:
        root: the folder that holds `optimizer/` and `trainer/`.
    """

    def __init__(self, root: Path) -> None:
        self.events: list[Event] = []
        self._root = f"{root}{os.sep}"
        self._own = (f"{root / 'optimizer'}{os.sep}", f"{root / 'trainer'}{os.sep}")
        self._entries: dict[CodeType, int] = {}
        self._main = threading.get_ident()
        self._is_on = False

    def record(self, run: Callable[[], object]) -> None:
        """Call `run` and record what happens in it, in all threads."""
        self._is_on = True
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            run()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            self._is_on = False

    def watch_files(self) -> None:
        """Record from now on where a manifest is opened."""
        sys.addaudithook(self._audit)

    def watch_instances(self, classes: Sequence[type[Any]]) -> None:
        """Record from now on which instances pydantic makes of `classes`."""
        from pydantic import BaseModel

        def new(cls: type[Any], *_: Any, **__: Any) -> Any:
            if self._is_on and issubclass(cls, tuple(classes)):
                kind = "copied" if sys._getframe(1).f_code.co_name in COPIES else "made"
                self._add(kind, "", cls.__name__)
            return object.__new__(cls)

        BaseModel.__new__ = new  # type: ignore[method-assign]  # pydantic's core calls it for each validated instance

    def _profile(self, frame: FrameType, kind: str, _: object) -> None:
        code = frame.f_code
        if kind in ("call", "return") and code.co_filename.startswith(self._own):
            if kind == "call" and frame.f_lasti > self._entries.setdefault(code, frame.f_lasti):
                kind = "resume"  # a generator goes beyond its first instruction
            if code.co_name not in COMPREHENSIONS:
                self._add(kind, code.co_filename.removeprefix(self._root), code.co_qualname, _stepping(frame))

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on and name in ("open", "os.rename") and MANIFEST in os.path.basename(str(arguments[0])):
            self._add("manifest", "", str(arguments[0]))

    def _add(self, kind: str, place: str, name: str, steps: str = "") -> None:
        self.events.append(Event(kind, threading.get_ident() == self._main, place, name, steps))


def _stepping(frame: FrameType) -> str:
    this = frame.f_locals.get("self") if frame.f_code.co_name == "step" else None
    return type(this).__name__ if hasattr(this, "scheduler") else ""


def end_of(events: Sequence[Event], start: int) -> int:
    """Return the index after the return of the main thread's call at `start`."""
    depth = 0
    for index in range(start, len(events)):
        if events[index].is_main:
            depth += {"call": 1, "resume": 1, "return": -1}.get(events[index].kind, 0)
            if depth == 0:
                return index + 1
    return len(events)


def without_imports(events: Sequence[Event]) -> list[Event]:
    """Return `events` without those of modules that are being imported."""
    kept, index = [], 0
    while index < len(events):
        if events[index].kind == "call" and events[index].is_main and events[index].name == "<module>":
            index = end_of(events, index)
        else:
            kept.append(events[index])
            index += 1
    return kept


def step_spans(events: Sequence[Event]) -> list[tuple[int, int]]:
    """Return first index and end of each outermost step."""
    spans: list[tuple[int, int]] = []
    for index, event in enumerate(events):
        if event.kind == "call" and event.steps and (not spans or index >= spans[-1][1]):
            spans.append((index, end_of(events, index)))
    return spans


def save_span(events: Sequence[Event], steps: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return first index and end of the outermost call that begins after a step and writes the first manifest."""
    manifest = next(i for i, event in enumerate(events) if event.kind == "manifest" and i > steps[0][1])
    last_step = max(end for _, end in steps if end <= manifest)
    open_calls: list[int] = []
    for index in range(last_step, manifest):
        if events[index].is_main and events[index].kind in ("call", "resume"):
            open_calls.append(index)
        elif events[index].is_main and events[index].kind == "return" and open_calls:
            open_calls.pop()
    return open_calls[0], end_of(events, open_calls[0])


def numbers(events: Sequence[Event]) -> dict[str, Any]:
    """Return the numbers of calls, of their files, and of calls in another file than the call before.

    Calls in all threads are counted; changes of file in the main thread alone, where their order is fixed.
    """
    places = [event.place for event in events if event.kind == "call"]
    in_order = [event.place for event in events if event.kind == "call" and event.is_main]
    changes = sum(before != after for before, after in pairwise(in_order))
    most = Counter(places).most_common(6)
    return {"begins": events[0].name, "calls": len(places), "files": len(set(places)), "changes": changes, "most": most}


def walks(events: Sequence[Event]) -> dict[str, Any]:
    """Return the numbers of each walk, and how often each watched class was made up to the first step."""
    steps = step_spans(events)
    to_step = events[: steps[0][1]]
    latest = {events[start].steps: (start, end) for start, end in steps[:8]}  # the fourth: all is set up
    first, end = save_span(events, steps)
    return {
        "load": numbers(events[: end_of(events, 0)]),
        "to_first_step": numbers(to_step),
        "save": numbers(events[first:end]),
        "steps": {name: numbers(events[start:end]) for name, (start, end) in latest.items()},
        **{kind: Counter(event.name for event in to_step if event.kind == kind) for kind in ("made", "copied")},
    }


def walked(root: Path) -> dict[str, Any]:
    """Return the walks of a short run of the code in `root`."""
    import optimizer
    import trainer

    load_config, train = trainer.load_config, trainer.train  # imported before anything is recorded
    schedules: Any = optimizer.SCHEDULE_REGISTRY
    factories: Any = optimizer.OPTIMIZER_BUILDER_REGISTRY
    recorder = Recorder(root)
    recorder.watch_instances([registry[key] for registry in (schedules, factories) for key in registry])
    recorder.watch_files()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(CONFIG.format(run_dir=Path(folder) / "run"))
        recorder.record(lambda: train(load_config(path), console=Console(file=io.StringIO())))
    return walks(without_imports(recorder.events))


if __name__ == "__main__":
    print(json.dumps(walked(Path(sys.argv[1]).resolve())))
