"""The provenance of a run is saved, and a resume reports the differences."""

import json
import random

import pytest
import sample_parts
import torch
from conftest import NO_COMPILER
from mutations import seal
from rich.console import Console
from sample_runs import ADAMW, SCHEDULE_FREE, config, two

from optimizer.kernels import compiled, limits, native_library
from trainer import load_config, resume, train
from trainer.checkpoint.fingerprint import config_changes
from trainer.checkpoint.provenance import data_difference, data_fingerprint
from trainer.offline_trainer import OfflineTrainer

OPTIMS = {"first": ADAMW, "second": SCHEDULE_FREE}
MIDDLE = "checkpoints/step_00000003"


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint after three of six updates."""
    train(config(tmp_path / "run", two(), OPTIMS, total_steps=6, save_every=3), console=Console(quiet=True))
    return tmp_path / "run"


def resumed(run, overrides=None):
    console = Console(width=1000)
    with console.capture() as printed:
        resume(run / MIDDLE, overrides, console=console)
    return printed.get()


def edit(run, change):
    """Change the provenance in the checkpoint."""
    path = run / MIDDLE / "trainer.json"
    values = json.loads(path.read_text())
    change(values["provenance"])
    path.write_text(json.dumps(values))
    seal(run / MIDDLE)


def test_a_checkpoint_says_what_it_was_made_with(run):
    saved = json.loads((run / MIDDLE / "trainer.json").read_text())["provenance"]
    assert saved["torch"] == torch.__version__
    assert saved["threads"] == torch.get_num_threads()
    assert saved["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert saved["device"] == "cpu"
    assert set(saved["implementations"]) == {"first", "second"}
    assert saved["mkl"]["MKL_CBWR"]
    assert saved["data"]["train"]["batch"] == {"x": ["float32", 4], "y": ["float32", 4]}
    assert {"innerstep", "numpy", "python"} <= saved.keys()


def test_on_the_same_machine_nothing_is_said(run):
    printed = resumed(run)
    assert "another machine setting" not in printed
    assert "its content" not in printed


def test_another_number_of_threads_is_one_line(run):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        printed = resumed(run)
    finally:
        torch.set_num_threads(threads)
    (line,) = [line for line in printed.splitlines() if "machine setting" in line]
    assert f"threads {threads} -> {threads + 1}: the run continues, but not bit for bit" in line


def test_everything_that_differs_is_in_that_line(run):
    def change(saved):
        saved |= {"torch": "2.9.1", "cpu_capability": "AVX9", "python": "3.0", "a_later_one": 3}
        saved["mkl"] = {"MKL_CBWR": "SSE2"}
        del saved["numpy"]

    edit(run, change)
    (line,) = [line for line in resumed(run).splitlines() if "machine setting" in line]
    for what in ("torch 2.9.1 -> ", "cpu_capability AVX9 -> ", "MKL_CBWR SSE2 -> "):
        assert what in line
    assert "numpy" not in line
    assert "a_later_one" not in line


def test_an_old_checkpoint_without_provenance_is_resumed_in_silence(run):
    edit(run, dict.clear)
    printed = resumed(run)
    assert "another machine setting" not in printed
    assert "its content" not in printed


@pytest.mark.parametrize("strange", [{"mkl": 3, "data": [1], "implementations": None}, {"data": {"train": "x"}}])
def test_strange_provenance_does_not_stop_a_resume(run, strange):
    edit(run, lambda saved: saved.update(strange))
    assert "resuming after 3 of 6 updates" in resumed(run)


def test_other_data_of_the_same_length_are_told(run, monkeypatch):
    class Other(sample_parts.Noise):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.held_out = sample_parts.TensorSplit({"x": torch.ones(10, 4), "y": torch.ones(10, 4)})

    monkeypatch.setitem(sample_parts.DATASET_REGISTRY._classes, "noise", Other)
    printed = resumed(run)
    assert "data: its content is not what the checkpoint was trained on (other values in held_out)" in printed


def change_of(value):
    """Return a data set class whose inputs are changed by `value`."""

    class Changed(sample_parts.Noise):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            batch = self.train.batch(torch.arange(37))
            self.train = sample_parts.TensorSplit({"x": value(batch["x"]), "y": batch["y"]})

    return Changed


CHANGES = {
    "rounding": (lambda x: x * (1 + 1e-7), False),
    "another scale": (lambda x: x * 1.001, True),
    "another order": (lambda x: x.flip(0), True),
    "one value of the first sample": (lambda x: torch.where(x == x[0, 0], x + 0.01, x), True),
    "NaN": (lambda x: x * torch.nan, True),
    "another type": (lambda x: x.double(), True),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_beyond_rounding_is_told(case):
    change, is_told = CHANGES[case]
    before, changed = {"data": data_fingerprint(sample_parts.Noise(), 0)}, change_of(change)()
    line = data_difference(before, {"data": data_fingerprint(changed, 0)}, changed, 0)
    assert (line is not None) == is_told


class Own(sample_parts.Noise):
    word = "one"

    def fingerprint(self):
        return f"version {self.word}"


def test_a_data_set_may_say_itself_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setitem(sample_parts.DATASET_REGISTRY._classes, "noise", Own)
    run = tmp_path / "run"
    train(config(run, two(), OPTIMS, total_steps=6, save_every=3), console=Console(quiet=True))
    monkeypatch.setattr(Own, "word", "two")
    assert "(its fingerprint was version one and is version two)" in resumed(run)


def test_the_fingerprint_changes_neither_random_numbers_nor_a_data_sets_state():
    data = sample_parts.Jittered()
    state, before = data.state_dict(), (torch.get_rng_state(), random.getstate())
    first = data_fingerprint(data, 0)
    assert torch.equal(data.state_dict()["generator"], state["generator"])
    assert data.state_dict()["served"] == state["served"]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert data_fingerprint(data, 0) == first


class Unrepeatable(sample_parts.TensorSplit):
    """Adds noise that no seed decides."""

    def batch(self, indices):
        return {name: value + random.SystemRandom().random() for name, value in super().batch(indices).items()}


def test_samples_that_differ_at_each_look_are_not_taken_for_other_data(run, monkeypatch):
    class Noisy(sample_parts.Noise):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.train = Unrepeatable(self.train.batch(torch.arange(37)))

    monkeypatch.setitem(sample_parts.DATASET_REGISTRY._classes, "noise", Noisy)
    assert "its content" not in resumed(run)


def test_a_sample_that_cannot_be_read_leaves_the_rest_of_the_fingerprint():
    class Broken(sample_parts.TensorSplit):
        def batch(self, indices):
            raise OSError("episode 7")

    data = sample_parts.Noise()
    data.train = Broken({"x": torch.zeros(5)})
    data.held_out = None
    assert data_fingerprint(data, 0) == {"train": {"samples": 5}}


def test_one_sample_and_types_without_numpy_have_a_fingerprint():
    data = sample_parts.Noise(held_out=0)
    found = []
    for value in (torch.zeros(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.complex64), torch.tensor([True])):
        data.train = sample_parts.TensorSplit({"x": value})
        found.append(json.dumps(data_fingerprint(data, 0)["train"]))
    assert len(set(found)) == 3


def test_the_fingerprint_is_the_same_for_a_run_and_its_resume(run):
    trainer = OfflineTrainer(load_config(run / "config.yaml"), Console(quiet=True), resumed=True)
    assert trainer.provenance == json.loads((run / MIDDLE / "trainer.json").read_text())["provenance"]


@pytest.fixture
def all_are_large(monkeypatch):
    """Let `auto` compile steps of any size. Returns a function after whose call compiling fails."""
    for name in ("LEAST_ELEMENTS", "LEAST_TENSORS"):
        monkeypatch.setattr(limits, name, 1)

    def fail(*of):
        raise OSError("there is no compiler")

    monkeypatch.setattr(compiled, "FAILURES", {})
    return lambda: monkeypatch.setattr(native_library, "check_step", fail)


PINNED = {"first": "fused", "second": "blocks"}
PINS = {f"model.component_optims.{name}.params.implementation": value for name, value in PINNED.items()}


@NO_COMPILER
def test_a_resume_that_takes_other_steps_says_so_and_how_to_keep_the_former(run, request):
    whole = (run / "checkpoints/step_00000006/first/model.safetensors").read_bytes()
    request.getfixturevalue("all_are_large")
    (line,) = [line for line in resumed(run).splitlines() if "its last bits differ" in line]
    assert "of the steps: first fused -> compiled, second blocks -> compiled: the run continues" in line
    options = line.partition("To keep the former: ")[2].split()
    assert options == [f"--{path}={value}" for path, value in PINS.items()]
    saved = json.loads((run / "checkpoints/step_00000006/trainer.json").read_text())["provenance"]
    assert saved["implementations"] == {"first": "compiled", "second": "compiled"}
    assert "implementations of the steps" not in resumed(run, PINS)
    assert (run / "checkpoints/step_00000006/first/model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(("section", "differs"), [("component_optims", False), ("components", True)])
def test_only_an_optimizers_implementation_may_differ(section, differs):
    def values(implementation):
        entry = {"params": {"implementation": implementation}}
        return {"config": {"model": {section: {"head": entry}}}, "data": {"samples": 1, "steps_per_epoch": 1}}

    assert bool(config_changes(values("fused"), values("auto"))) == differs
    assert config_changes(values("fused"), values("own"))


@NO_COMPILER
def test_provenance_has_what_took_the_steps_in_the_end(tmp_path, all_are_large):
    made = config(tmp_path / "run", two(), OPTIMS, total_steps=6, save_every=3)
    trainer = OfflineTrainer(load_config(made), Console(quiet=True))
    assert trainer.provenance["implementations"] == {"first": "compiled", "second": "compiled"}
    all_are_large()
    trainer.config.train.run_dir.mkdir()
    trainer.run()
    saved = json.loads((tmp_path / "run" / MIDDLE / "trainer.json").read_text())["provenance"]
    assert saved["implementations"] == PINNED
