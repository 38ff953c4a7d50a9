"""State of an objective and a data set: saved, restored, refused in time, and shown by the tools."""

import copy
import json
import math

import numpy as np
import pytest
import sample_parts
import torch
from conftest import files_of, metrics_of
from mutations import seal
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, config
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, ConfigError, resume, train
from trainer.checkpoint.directory import verify
from trainer.checkpoint.provenance import data_fingerprint
from trainer.checkpoint.tools.diff import differences
from trainer.checkpoint.tools.inspect import inspection

ONE = {"first": {"type": "normed"}}
OPTIM = {"first": ADAMW}


class Keeper(sample_parts.Regression):
    """Has in its state whatever a test puts there."""

    kept = {"updates": 0}  # noqa: RUF012  # the tests replace it

    def __init__(self, width: int = 4):
        self.state = copy.deepcopy(type(self).kept)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        if state.keys() != self.state.keys():
            raise KeyError(f"keys {list(state)}")
        self.state = state


def registered(monkeypatch, cls, registry=OBJECTIVE_REGISTRY, name="of_test"):
    monkeypatch.setitem(registry._classes, name, cls)
    monkeypatch.setitem(registry._keys, name, name)
    return cls


def run_of(folder, **options):
    """Train six updates, with checkpoints after three and six, and return the run and what was printed."""
    console = Console(width=500)
    options = {"objective": "of_test", "total_steps": 6, "save_every": 3, **options}
    with console.capture() as printed:
        train(config(folder, ONE, OPTIM, **options), console=console)
    return folder, printed.get()


def resumed(run, overrides=None, step=3):
    console = Console(width=500)
    with console.capture() as printed:
        resume(run / f"checkpoints/step_{step:08d}", overrides, console=console)
    return printed.get()


NESTED = {
    "plain": [None, True, 3, -0.0, "Ü", math.inf, -math.inf],
    "best": {1: (torch.ones(2), {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}), "1": {2, 3}},
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "empty": {"tensor": torch.zeros(0, 3), "dict": {}, "list": []},
    "dtype": torch.float16,
}


def test_nested_state_comes_back_as_it_was(tmp_path, monkeypatch):
    kept = []
    registered(monkeypatch, type("Nested", (Keeper,), {"kept": NESTED}))
    run, _ = run_of(tmp_path / "run")
    monkeypatch.setattr(Keeper, "load_state_dict", lambda self, state: kept.append(state))
    resumed(run)
    state = kept[0]  # of the resume; the evaluation puts it back later
    assert repr(state) == repr(NESTED)
    assert torch.equal(state["best"][1][1]["a/b"], torch.zeros(1))
    assert torch.equal(state["best"][1][1]["a"]["b"], torch.ones(1))


def test_nothing_is_written_for_parts_without_state(tmp_path, monkeypatch):
    registered(monkeypatch, sample_parts.Regression)
    run, printed = run_of(tmp_path / "run")
    assert "warning" not in printed
    assert {path.name for path in (run / "checkpoints/step_00000003").glob("*.*")} == {
        "manifest.json",
        "trainer.json",
        "rng.safetensors",
    }


REFUSED = {
    "a function": ({"curriculum": {"rule": len}}, r"objective/curriculum/rule is a builtin_function_or_method"),
    "a numpy array": ({"means": [np.zeros(2)]}, r"objective/means/0 is a ndarray, .*torch.from_numpy"),
    "a numpy number": ({"mean": np.float64(1)}, r"objective/mean is a float64"),
    "a key of another type": ({"seen": {(1, 2): 3}}, r"objective/seen is a dict, .*by text or whole numbers"),
    "a sparse tensor": ({"counts": torch.eye(2).to_sparse()}, r"tensor objective/counts: it is sparse \(sparse_coo\)"),
    "a tensor without values": ({"t": torch.zeros(1, device="meta")}, r"objective/t: it is on the device `meta`"),
    "a type without a name": ({"t": torch.zeros(1, dtype=torch.complex128)}, r"objective/t: safetensors has no type"),
    "half a character": ({"name": "\ud800"}, "surrogates"),
    "a list": (["updates", 3], r"state_dict returns a list, where a dict is expected"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_state_that_cannot_be_saved_is_refused_before_the_first_update(tmp_path, monkeypatch, case):
    kept, message = REFUSED[case]
    registered(monkeypatch, type("Refused", (Keeper,), {"kept": kept}))
    with pytest.raises(ConfigError, match=f"train.objective: its state cannot be saved: .*{message}"):
        run_of(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_state_that_holds_itself_is_refused(tmp_path, monkeypatch):
    loop: dict = {"a": 1}
    loop["loop"] = loop
    registered(monkeypatch, type("Loop", (sample_parts.Regression,), {"state_dict": lambda self: loop, **LOADS}))
    with pytest.raises(ConfigError, match="its state cannot be saved: RecursionError"):
        run_of(tmp_path / "run")


LOADS = {"load_state_dict": lambda self, state: None}
SAVES = {"state_dict": lambda self: {"updates": 3}}


@pytest.mark.parametrize("methods", [LOADS, SAVES])
@pytest.mark.parametrize("bases", [(sample_parts.Regression,), (sample_parts.Buffered,)])
def test_one_of_the_two_methods_is_refused_without_the_other(tmp_path, monkeypatch, methods, bases):
    registered(monkeypatch, type("Half", bases, methods))
    with pytest.raises(ConfigError, match=r"train.objective: Half defines \w+ and no \w+"):
        run_of(tmp_path / "run")


def test_a_data_set_with_state_refuses_workers(tmp_path, monkeypatch):
    registered(monkeypatch, sample_parts.Regression)
    with pytest.raises(ConfigError, match=r"data.workers: must be 0 for Jittered, which has a state_dict; got 2"):
        run_of(tmp_path / "run", data={"type": "jittered", "workers": 2})


class Spoiled(Keeper):
    """Has a state that cannot be saved from its fourth update on."""

    def update(self, *arguments, **step):
        self.state["updates"] += 1
        if self.state["updates"] == 4:
            self.state["updates"] = object()
        return super().update(*arguments, **step)


class SpoiledOnce(Spoiled):
    def update(self, *arguments, **step):
        if not isinstance(self.state["updates"], int):
            return sample_parts.Regression.update(self, *arguments, **step)
        return super().update(*arguments, **step)


def test_state_that_spoils_in_the_run_costs_nothing_else(tmp_path, monkeypatch):
    registered(monkeypatch, SpoiledOnce)
    run, printed = run_of(tmp_path / "run")
    assert "its state cannot be saved: the state objective/updates is a object" in printed
    assert "--resume.on_change=override resumes without it" in printed
    assert verify(run / "checkpoints/step_00000006")["step"] == 6
    with pytest.raises(ConfigError, match="the checkpoint has no state of it"):
        resumed(run, {"train.total_steps": 7}, step=6)
    printed = resumed(run, {"train.total_steps": 7, "resume.on_change": "override"}, step=6)
    assert "train.objective: its state is not restored, it starts as it is built" in printed


def test_state_that_does_not_fit_is_refused_with_the_way_on(tmp_path, monkeypatch):
    registered(monkeypatch, Keeper)
    run, _ = run_of(tmp_path / "run")
    before = files_of(run)
    monkeypatch.setattr(Keeper, "kept", {"count": 0})
    with pytest.raises(ConfigError) as refusal:
        resumed(run)
    for text in ("step_00000003: the state of train.objective", "Keeper.load_state_dict fails: KeyError", "override"):
        assert text in str(refusal.value)
    assert "test_own_state.py:" in str(refusal.value)
    registered(monkeypatch, sample_parts.Regression)
    with pytest.raises(ConfigError, match="Regression has no load_state_dict, and this state: updates"):
        resumed(run)
    assert files_of(run) == before
    assert "is not restored" in resumed(run, {"resume.on_change": "override"})


def test_a_module_with_other_buffers_names_them(tmp_path, monkeypatch):
    class Wider(sample_parts.Buffered):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(2))
            self.register_buffer("shift", torch.zeros(2))

    registered(monkeypatch, sample_parts.Buffered)
    run, _ = run_of(tmp_path / "run")
    registered(monkeypatch, Wider)
    with pytest.raises(ConfigError, match=r"missing: shift; mis-shaped: scale \(saved \[\], here \[2\]\)"):
        resumed(run)


def test_an_objective_of_another_class_starts_as_it_is_built(tmp_path, monkeypatch):
    registered(monkeypatch, Keeper)
    run, _ = run_of(tmp_path / "run")
    printed = resumed(run, {"train.objective.type": "regression", "resume.on_change": "override"})
    assert "train.objective: its state is not restored" in printed


def test_an_older_checkpoint_without_state_is_taken_up(tmp_path, monkeypatch):
    registered(monkeypatch, sample_parts.Regression)
    run, _ = run_of(tmp_path / "run")
    folder = run / "checkpoints/step_00000003"
    values = json.loads((folder / "trainer.json").read_text())
    del values["provenance"]
    (folder / "trainer.json").write_text(json.dumps(values))
    seal(folder)
    registered(monkeypatch, Keeper)
    printed = resumed(run)
    assert "train.objective: its state is not restored" in printed
    assert "another machine setting" not in printed


class Holder(sample_parts.Regression):
    """Has a module of its own as an attribute, and a component beside it."""

    def prepare(self, components, data):
        self.norm, self.first, self.all = nn.BatchNorm1d(4), components["first"], components

    def losses(self, components, batch):
        outcome = super().losses(components, batch)
        self.norm(batch["x"])
        return sample_parts.Outcome({"squared": outcome.total * (1 + self.norm.running_mean.square().sum())})


def test_modules_that_an_objective_has_are_saved_and_components_once(tmp_path, monkeypatch):
    registered(monkeypatch, Holder)
    run, _ = run_of(tmp_path / "run")
    whole = files_of(run / "checkpoints/step_00000006"), metrics_of(run)
    saved = load_file(run / "checkpoints/step_00000003/objective.safetensors")
    assert {name.removeprefix("objective/norm.") for name in saved} == {*nn.BatchNorm1d(4).state_dict()}
    resumed(run)
    assert (files_of(run / "checkpoints/step_00000006"), metrics_of(run)) == whole


class Moved(nn.BatchNorm1d):
    """Remembers where it was moved to."""

    def to(self, *args, **options):
        self.places = [*getattr(self, "places", []), args]
        return super().to(*args, **options)


def test_modules_that_an_objective_has_are_moved_to_the_runs_device(tmp_path, monkeypatch):
    monkeypatch.setattr(nn, "BatchNorm1d", Moved)
    made = []

    class Remembered(Holder):
        def prepare(self, components, data):
            super().prepare(components, data)
            made.append(self)

    registered(monkeypatch, Remembered)
    run_of(tmp_path / "run")
    assert made[0].norm.places == [(torch.device("cpu"),)]


def test_the_tools_show_it(tmp_path, monkeypatch, cli):
    registered(monkeypatch, type("Shown", (Spoiled,), {"kept": {"updates": -9, "best": [torch.zeros(3), 0.5]}}))
    run, _ = run_of(tmp_path / "run", data={"type": "jittered"})
    sides = [run / f"checkpoints/step_0000000{step}" for step in (3, 6)]
    shown = inspection(run)
    assert "state of objective: 1 tensor, 3 values, 12 B; updates, best.1" in shown
    assert "state of data: 1 tensor, " in shown
    identical, told = differences(*sides, show_all=True)
    assert not identical
    for line in ("objective.updates", "data.served", "state of objective: identical", "state of data: 1 of 1"):
        assert line in told
    assert cli("checkpoint", "verify", run)[0] == 0
    assert cli("checkpoint", "export", run, "--out", tmp_path / "weights.safetensors")[0] == 0
    assert cli("checkpoint", "convert", run, tmp_path / "torch", "--to", "torch")[0] == 0
    assert {path.name for path in (tmp_path / "torch").iterdir()} == {"first.pt", "first_opt.pt"}


@pytest.mark.parametrize("content", ['{"state": {"dict": 3}, "on_device": []}', '{"state": 3, "on_device": []}', "{}"])
def test_a_state_file_with_other_content_is_damage(tmp_path, monkeypatch, content):
    registered(monkeypatch, Keeper)
    run, _ = run_of(tmp_path / "run")
    folder = run / "checkpoints/step_00000003"
    (folder / "objective.json").write_text(content)
    seal(folder)
    with pytest.raises(ConfigError, match=r"objective.json: "):
        resumed(run)


class Counting(nn.Module):
    """Changes a buffer that is not persistent, and a number, with every forward pass in training."""

    def __init__(self, counts: bool = True):
        super().__init__()
        self.linear, self.counts, self.passes = nn.Linear(4, 4), counts, 0
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x):
        if self.training and self.counts:
            self.seen += 1
            self.passes += 1
        return self.linear(x) * self.mask


class Forgetful(sample_parts.Regression):
    """Counts its updates, and has no state_dict."""

    def __init__(self):
        self.updates, self.factor = 0, 3.0

    def update(self, *arguments, **step):
        self.updates += 1
        return super().update(*arguments, **step)


def test_what_training_changes_and_nothing_saves_is_said_once(tmp_path, monkeypatch):
    registered(monkeypatch, Counting, MODEL_REGISTRY)
    registered(monkeypatch, Forgetful)
    monkeypatch.setitem(ONE, "first", {"type": "of_test"})
    _, printed = run_of(tmp_path / "run")
    (warning,) = [line for line in printed.splitlines() if "which is not saved" in line]
    assert "model.components.first: buffer seen" in warning
    assert "model.components.first: attribute passes" in warning
    assert "train.objective: attribute updates" in warning
    assert "mask" not in warning
    assert "factor" not in warning


def test_buffers_that_stay_and_state_of_ones_own_are_not_warned_of(tmp_path, monkeypatch):
    registered(monkeypatch, Counting, MODEL_REGISTRY)
    registered(monkeypatch, Keeper)
    monkeypatch.setitem(ONE, "first", {"type": "of_test", "params": {"counts": False}})
    _, printed = run_of(tmp_path / "run", data={"type": "jittered"})
    assert "not saved" not in printed


def test_a_data_set_that_counts_is_warned_of(tmp_path, monkeypatch):
    class Silent(sample_parts.Jittered):
        state_dict = sample_parts.DataSet.state_dict
        load_state_dict = sample_parts.DataSet.load_state_dict

    registered(monkeypatch, Silent, DATASET_REGISTRY)
    registered(monkeypatch, sample_parts.Regression)
    _, printed = run_of(tmp_path / "run", data={"type": "of_test"})
    assert "data.train: attribute generator, data.train: attribute served" in printed


class Measured(Keeper):
    """Counts its evaluations too."""

    def losses(self, components, batch):
        self.state["updates"] += 1
        return super().losses(components, batch)


def test_an_evaluation_changes_no_state(tmp_path, monkeypatch):
    registered(monkeypatch, Measured)
    states = []
    for name, every in (("often", 1), ("never", 5)):
        run, _ = run_of(tmp_path / name, eval_every=every, data={"type": "jittered"})
        files = files_of(run / "checkpoints/step_00000003")
        states.append({file: files[file] for file in ("objective.json", "data.json", "data.safetensors")})
    assert states[0] == states[1]


class OneOfTwo(sample_parts.Noise):
    """Holds one value of two, and serves it: a tensor whose stride is 2, and which is contiguous nevertheless."""

    def __init__(self):
        super().__init__(samples=9, held_out=1)
        self.first = torch.arange(2)[::2]
        batch = self.held_out.batch
        self.held_out.batch = lambda indices: {**batch(indices), "index": self.first}


def test_one_value_with_a_stride_is_compared_as_any_other(tmp_path, monkeypatch):
    class Holding(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.register_buffer("first", torch.arange(2)[::2])

    registered(monkeypatch, OneOfTwo, DATASET_REGISTRY)
    registered(monkeypatch, sample_parts.Regression)
    registered(monkeypatch, Holding, MODEL_REGISTRY, "holding")
    monkeypatch.setitem(ONE, "first", {"type": "holding"})
    _, printed = run_of(tmp_path / "run", data={"type": "of_test"})
    assert "not saved" not in printed
    assert data_fingerprint(OneOfTwo(), 0)["held_out"].keys() >= {"checksum"}
