"""State that cannot be saved or loaded again is found before the first update, or at the save that it spoils."""

import json
import re
import shutil

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, SCHEDULE_FREE, config, drop

from trainer import ConfigError, SaveError, load_config, resume, train
from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.checkpoint.savable import SavedForm, check_savable
from trainer.errors import UserCodeError
from trainer.offline_trainer import OfflineTrainer

QUIET = Console(quiet=True)


def with_first(run_dir, kind, optim=ADAMW, params=None, **changed):
    components = {
        "first": {"type": f"sample_trouble_parts.{kind}", "params": params or {}},
        "second": {"type": "normed"},
    }
    return config(run_dir, components, {"first": optim, "second": ADAMW}, **changed)


BUFFERS = {
    "sparse": "it is sparse (sparse_coo)",
    "compressed": "it is sparse (sparse_csr)",
    "nested": "it is nested",
    "of a type without a name": "safetensors has no type for torch.complex128",
    "without memory": "it is a Tensor without allocated memory",
}


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.filterwarnings("ignore:.*jagged layout.*is a prototype feature")
def test_a_buffer_that_cannot_be_saved_is_named_before_anything_is_written(cli, tmp_path, kind):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(with_first(tmp_path / "run", "Remembers", params={"kind": kind})))
    code, printed = cli("train", path)
    assert code == 2
    assert f"model.components.first: 'memory' cannot be saved: {BUFFERS[kind]}" in printed
    assert not (tmp_path / "run").exists()


PARTS = {
    "ReservedName": "model.components.first: '__metadata__' cannot be saved: safetensors keeps this name for itself",
    "FailsToSave": "model.components.first: its state cannot be saved: NotImplementedError: not today",
    "Rounds": "these are not as before: body.weight, body.bias, head.weight, head.bias",
    "ForgetsHead": "these are not as before: head.weight, head.bias",
    "Renames": "model.components.first: load_state_dict does not accept the result of state_dict: RuntimeError",
}


@pytest.mark.parametrize("kind", PARTS)
def test_state_that_does_not_come_back_is_named_before_anything_is_written(tmp_path, kind):
    with pytest.raises(ConfigError) as raised:
        train(with_first(tmp_path / "run", kind), console=QUIET)
    assert PARTS[kind] in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_tensor_without_values_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model.components.first: cannot be moved to cpu: .*meta tensor; no data"):
        train(with_first(tmp_path / "run", "Remembers", params={"kind": "without values"}), console=QUIET)
    with pytest.raises(ValueError, match="it is on the device `meta`"):
        check_savable({"first/optimizer.safetensors": {"w/moment": torch.zeros(2, device="meta")}})


def test_extra_state_that_cannot_be_saved_is_named(tmp_path):
    raw = with_first(tmp_path / "run", "Counts", params={"savable": False})
    with pytest.raises(ConfigError, match=r"model.components.first: .* _extra_state/of is a Counts, which cannot be"):
        train(raw, console=QUIET)


def test_an_option_of_an_optimizer_that_cannot_be_saved_is_named(tmp_path):
    raw = with_first(tmp_path / "run", "TwoLayers", {"type": "sample_trouble_parts.UnsavableOption"})
    with pytest.raises(
        ConfigError, match=r"model.component_optims.first: its state cannot be saved as JSON: .*function"
    ):
        train(raw, console=QUIET)


def test_the_rehearsal_changes_nothing(tmp_path):
    """The weights are loaded back where they were, bit for bit, and no random number is drawn."""
    made = []
    for _ in range(2):
        trainer = OfflineTrainer(load_config(with_first(tmp_path, "Remembers", SCHEDULE_FREE)), QUIET)
        made.append((trainer.components.state_dict(), torch.get_rng_state()))
        trainer.contents.__init__(trainer.components, trainer.optimizers, trainer.averages)
        made.append((trainer.components.state_dict(), torch.get_rng_state()))
    for state, rng in made[1:]:
        assert all(torch.equal(tensor, made[0][0][name]) for name, tensor in state.items())
        assert torch.equal(rng, made[0][1])


def test_nans_and_negative_zeros_come_back(tmp_path, monkeypatch):
    import sample_trouble_parts

    class Odd(sample_trouble_parts.TwoLayers):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("odd", torch.tensor([float("nan"), -0.0, float("inf")]))

    monkeypatch.setattr(sample_trouble_parts, "Odd", Odd, raising=False)
    OfflineTrainer(load_config(with_first(tmp_path, "Odd")), QUIET)


def test_an_expanded_buffer_that_is_not_saved_is_left_as_it_is(tmp_path, monkeypatch):
    """PyTorch refuses to write into it, also the same values."""
    import sample_trouble_parts

    class Expanded(sample_trouble_parts.TwoLayers):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ones", torch.ones(1).expand(4), persistent=False)

    monkeypatch.setattr(sample_trouble_parts, "Expanded", Expanded, raising=False)
    assert train(with_first(tmp_path / "run", "Expanded"), console=QUIET).step == 12


def test_extra_state_is_saved_and_resumed(tmp_path):
    for name in ("whole", "parts"):
        train(with_first(tmp_path / name, "Counts", save_every=5), console=QUIET)
    drop(tmp_path / "parts/checkpoints/step_00000012")
    resume(tmp_path / "parts", console=QUIET)
    whole, parts = (files_of(tmp_path / run / "checkpoints/step_00000012") for run in ("whole", "parts"))
    assert whole == parts
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")
    saved = tmp_path / "whole/checkpoints/step_00000012/first"
    assert json.loads((saved / "extra_state.json").read_text())["_extra_state"]["dict"][0] == ["count", 12]
    assert [list(tensor.shape) for tensor in load_file(saved / "extra_state.safetensors").values()] == [[4]]
    assert not (saved.parent / "second/extra_state.json").exists()


def test_checkpoint_tools_take_a_component_with_extra_state(cli, tmp_path):
    run = tmp_path / "run"
    train(with_first(run, "Counts", save_every=5), console=QUIET)
    for command in (["inspect", run], ["verify", run], ["diff", run, run / "checkpoints/step_00000005"]):
        assert cli("checkpoint", *command)[0] in (0, 1), command
    raw = with_first(tmp_path / "next", "Counts")
    raw["model"]["components"]["first"]["init_from"] = str(run)
    trainer = OfflineTrainer(load_config(raw), QUIET)
    weights = load_file(run / "checkpoints/step_00000012/first/model.safetensors")
    assert all(torch.equal(trainer.components["first"].state_dict()[name], tensor) for name, tensor in weights.items())
    assert trainer.components["first"].count == 0


def test_extra_state_is_shown_and_compared(cli, tmp_path):
    run = tmp_path / "run"
    train(with_first(run, "Counts", save_every=5), console=QUIET)
    first, last = run / "checkpoints/step_00000005", run / "checkpoints/step_00000012"
    code, printed = cli("checkpoint", "inspect", last)
    assert (code, "extra state of first: 1 tensor, 4 values, 16 B; _extra_state.count" in printed) == (0, True), printed
    shutil.copytree(run, tmp_path / "copy")
    other = tmp_path / "copy/checkpoints/step_00000012"
    assert cli("checkpoint", "diff", last, other)[0] == 0
    for name in ("extra_state.json", "extra_state.safetensors"):
        shutil.copy(first / "first" / name, other / "first" / name)
    code, printed = cli("checkpoint", "diff", last, other)
    assert code == 1
    assert re.search(r"^  first.extra_state._extra_state.count +\d+ +\d+$", printed, re.MULTILINE), printed
    assert "only in A: first, extra state: _extra_state/means" in printed
    assert "first: 2 of " in printed


def test_a_checkpoint_without_the_extra_state_does_not_fit(tmp_path):
    from trainer.checkpoint.contents import load_component

    run = tmp_path / "run"
    train(with_first(run, "TwoLayers"), console=QUIET)
    trainer = OfflineTrainer(load_config(with_first(tmp_path / "next", "Counts")), QUIET)
    with pytest.raises(ValueError, match=r"extra_state.json has nothing, and the component _extra_state"):
        load_component(run / "checkpoints/step_00000012/first", trainer.components["first"])


def test_a_conjugated_buffer_is_saved_as_what_it_is(tmp_path):
    train(with_first(tmp_path / "run", "Remembers", params={"kind": "conjugated"}), console=QUIET)
    saved = load_file(tmp_path / "run/checkpoints/step_00000012/first/model.safetensors")
    assert saved["memory"].tolist() == [1 - 2j, 3 + 4j]


LATER = {
    "grow": "its tensor 'memory' was float32 [2, 4] before the first update and is float32 [3, 4] now",
    "widen": "its tensor 'memory' was float32 [2, 4] before the first update and is float64 [2, 4] now",
    "drop": "its tensor 'memory' was float32 [2, 4] before the first update and is not there now",
    "sparse": "'memory' cannot be saved: it is sparse",
}


@pytest.mark.parametrize("what", LATER)
@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
def test_weights_that_change_their_form_are_named_at_the_next_save(tmp_path, what, on_save_error):
    raw = with_first(
        tmp_path / "run",
        "Remembers",
        objective="sample_trouble_parts.Meddles",
        save_every=4,
        keep_last=1,
        on_save_error=on_save_error,
    )
    raw["train"]["objective"]["params"] = {"what": what}
    with pytest.raises(UserCodeError) as raised:
        train(raw, console=QUIET)
    assert f"after 8 updates, which cannot be saved: model.components.first: {LATER[what]}" in str(raised.value)
    assert str(raised.value).count(LATER[what]) == str(raised.value).count("checkpoint:") == 1
    assert "The newest finite checkpoint: after 4 updates. `innerstep resume" in str(raised.value)
    assert [folder.name for folder in complete_checkpoints(tmp_path / "run/checkpoints")] == ["step_00000004"]
    verify(tmp_path / "run/checkpoints/step_00000004")


def test_state_that_the_first_step_makes_can_be_checked_right_after_it(tmp_path):
    """The check leaves weights and the mode of schedule-free optimizers as they are."""
    trainer = OfflineTrainer(load_config(with_first(tmp_path, "Remembers", SCHEDULE_FREE)), QUIET)
    loss = trainer.objective.losses(trainer.components, next(trainer.batches.of_update(0))).total
    trainer.updater.step(loss)
    before = {name: tensor.clone() for name, tensor in trainer.components.state_dict().items()}
    trainer.contents.check(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.components.state_dict().items())
    assert trainer.optimizers["first"].param_groups[0]["train_mode"]
    parameter = trainer.components["first"].head.weight
    trainer.optimizers["first"].state[parameter]["curve"] = object()
    with pytest.raises(
        UserCodeError, match=r"after 1 update, .*: model.component_optims.first: .* head.weight/curve is"
    ):
        trainer.contents.check(1)


@pytest.mark.parametrize("save_async", [True, False])
def test_what_fails_in_writing_is_no_traceback(tmp_path, monkeypatch, save_async):
    from trainer.checkpoint import writing as checkpoint_writing

    def fails(*_):
        raise AttributeError("no such tensor")

    monkeypatch.setattr(checkpoint_writing, "write_tensors", fails)
    with pytest.raises(SaveError, match=r"after 12 updates failed: AttributeError: no such tensor .* checkpoint: none"):
        train(with_first(tmp_path / "run", "TwoLayers", save_async=save_async), console=QUIET)


def test_optimizer_state_and_names_are_checked_too():
    files = {
        "first/optimizer.safetensors": {"w/moment": torch.eye(2).to_sparse(), "\ud800": torch.zeros(1)},
        "first/optimizer.json": {"state": {1, 2}},
        "objective.json": {"name": "\ud800"},
    }
    with pytest.raises(ValueError, match="cannot be saved") as raised:
        check_savable(files)
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["model.component_optims.first"] * 3 + ["objective.json"]
    assert "not valid Unicode" in lines[1]


def test_a_hundred_problems_fit_on_a_screen():
    files = {"first/model.safetensors": {f"t{number}": torch.eye(2).to_sparse() for number in range(100)}}
    with pytest.raises(ValueError, match="… and 88 more"):
        check_savable(files)


def test_every_type_that_was_ever_saved_is_still_taken():
    types = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
    types += [torch.uint16, torch.float8_e4m3fn]
    tensors = {str(dtype): torch.zeros(2, dtype=dtype) for dtype in types}
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(1.0), 'a/b\n"': torch.zeros(1), "": torch.zeros(1)}
    files = {"first/model.safetensors": {**tensors, "strided": torch.zeros(4, 6).t()[::2]}}
    check_savable(files)
    SavedForm(files).check(files)


NAMES = {
    "Nul": "Windows has no folder of this name",
    "lpt3": "Windows has no folder of this name",
    "SECOND": "must differ from 'second' in more than case",
    "straße": None,
    "console": None,
    "a" + "ü" * 127: None,
    "b" + "ü" * 127 + "b": "must have at most 255 bytes",
    "a" * 256: "must have at most 255 bytes",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name[:8]}-{len(name)}")
def test_component_names_are_those_of_folders_anywhere(tmp_path, name):
    raw = config(
        tmp_path / "run", {"second": {"type": "normed"}, name: {"type": "normed"}}, {"second": ADAMW, name: ADAMW}
    )
    if NAMES[name] is None:
        train(raw, console=QUIET)
        verify(tmp_path / "run/checkpoints/step_00000012")
    else:
        with pytest.raises(ConfigError, match=NAMES[name]):
            load_config(raw)


def test_two_spellings_of_one_folder_are_refused(tmp_path):
    names = ("STRASSE", "straße")
    raw = config(tmp_path, {name: {"type": "normed"} for name in names}, dict.fromkeys(names, ADAMW))
    with pytest.raises(ConfigError, match=r"model.components.straße: must differ from 'STRASSE' in more than case"):
        load_config(raw)


def test_a_run_dir_too_deep_for_its_files_is_refused_before_anything_is_written(tmp_path):
    deep = tmp_path.joinpath(*["d" * 200] * 25)
    with pytest.raises(ConfigError, match=r"train.run_dir: the longest path in it would have \d+ bytes, and must have"):
        OfflineTrainer(load_config(with_first(deep, "TwoLayers")), QUIET)
    with pytest.raises(ConfigError, match=r"train.run_dir: a name of a folder must have at most \d+ bytes; got 'eee"):
        OfflineTrainer(load_config(with_first(tmp_path / ("e" * 300) / "run", "TwoLayers")), QUIET)
    assert list(tmp_path.iterdir()) == []
