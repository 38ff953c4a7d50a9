"""`innerstep export --to torch`: a script that needs torch alone and computes what the run computes."""

import json
import os
import re
import subprocess
import sys

import pytest
import sample_two_ways
import torch
from conftest import DIGITS, files_of
from rich.console import Console
from safetensors.torch import load_file
from sample_demonstrations import IMAGE, STATE, policy_config
from sample_exports import head_config

from trainer import load_config, load_run, train

QUIET = Console(quiet=True)
ALONE = """
import importlib.abc, sys
sys.path[:0] = {paths}
import torch
before = {{name.partition(".")[0] for name in sys.modules}}


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise AssertionError(f"the script imports {{name}}")


sys.meta_path.insert(0, Refuse())
import {module}
model = {module}.load()
given = torch.load("given.pt", weights_only=True)
torch.manual_seed(4)
torch.save(model(given), "found.pt")
new = {{name.partition(".")[0] for name in sys.modules}} - before - {{"{module}"}}
assert new <= set(sys.stdlib_module_names), new
"""
"""A program that imports a script without site-packages but for torch's folder, and checks what it imports."""
REFUSED = ("safetensors", "numpy", "optimizer", "trainer", "pydantic", "yaml", "schedulefree")


def trained(config):
    train(config, console=QUIET)
    return config["train"]["run_dir"]


def batch_for(policy, number, seed=3):
    """Return observations of `number` samples, in the units of the data."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (number, policy.n_obs_steps, *one.shape) for name, one in policy.features.items()}
    return {
        name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        if name == IMAGE
        else torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
        if name != "action"
    }


def run_alone(folder, module, given):
    """Return the outputs of a script in a process that has torch alone, which may not write beside it."""
    torch.save(given, folder / "given.pt")
    paths = [str(folder), *(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))]
    program = ALONE.format(paths=paths, refused=REFUSED, module=module)
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize(
    "made",
    [lambda run: policy_config(run), lambda run: sample_two_ways.config(run, num_inference_steps=2)],
    ids=["cloning", "flow"],
)
def test_a_script_acts_as_the_run_does_with_torch_alone(tmp_path, cli, made):
    run = trained(made(tmp_path / "run"))
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert code == 0, printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["policy.py", "policy.safetensors"]
    loaded = load_run(run)
    given = batch_for(loaded.policy, 5)
    torch.manual_seed(4)
    with torch.no_grad():
        expected = loaded.policy.actions(loaded.components, given)
    found = run_alone(tmp_path / "out", "policy", given)
    assert found.shape == expected.shape
    assert expected.std() > 0
    # The attention that torch takes for inference is not in a traced graph: its sums are in another order.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("key", ["export_blocks", "export_random", "export_recurrent", "export_odd_types"])
def test_blocks_random_numbers_and_rare_types_are_the_same_bit_for_bit(tmp_path, cli, key):
    run = trained(head_config(policy_config, tmp_path / "run", key))
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert code == 0, printed
    assert "bit for bit" in printed
    text = (tmp_path / "out/policy.py").read_text()
    assert ("torch.manual_seed repeats them" in text) == (key == "export_random")
    assert ("with torch.autocast(device.type, torch.bfloat16, True):" in text) == (
        key in ("export_blocks", "export_odd_types")
    )


def test_the_weights_have_the_names_of_the_run_and_no_others(tmp_path, cli):
    run = trained(policy_config(tmp_path / "run"))
    assert cli("export", run, tmp_path / "out", "--to", "torch")[0] == 0
    tensors = load_file(tmp_path / "out/policy.safetensors")
    saved = load_run(run).components.state_dict()
    parameters = {name for name in tensors if not name.startswith(("objective.", "example/", "constant."))}
    assert parameters - {"head.positions"} == saved.keys()
    assert all(torch.equal(tensors[name], value) for name, value in saved.items())
    assert f"objective.normalization.{STATE}.low" in tensors


def test_a_component_may_be_called_as_something_in_the_script(tmp_path, cli):
    config = head_config(policy_config, tmp_path / "run", "export_plain")
    config["train"]["objective"]["params"] = {"wiring": ["check = tensors(observation.state)", "w = inputs(check)"]}
    identity = {"type": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 2}}
    config["model"]["components"] = {"tensors": {"type": "export_plain"}, "inputs": identity}
    config["model"]["component_optims"] = {key: {"type": "sgd"} for key in ("tensors", "inputs")}
    run = trained(config)
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert (code, "bit for bit" in printed) == (0, True), printed


def test_names_that_are_code_are_text_in_the_script(tmp_path, cli):
    run = tmp_path / "run"
    made = {
        "plugins": ["sample_exports"],
        "data": {"type": "export_odd_names", "batch_size": 4},
        "model": {
            "components": {"net": {"type": "export_odd_names"}},
            "component_optims": {"net": {"type": "adam", "params": {"lr": 1e-3}}},
        },
        "train": {"objective": {"type": "export_odd_names"}, "total_steps": 2, "run_dir": str(run), "device": "cpu"},
    }
    train(made, console=QUIET)
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert code == 0, printed
    done = subprocess.run([sys.executable, tmp_path / "out/model.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the stored example is reproduced" in done.stdout


def test_a_model_that_is_no_policy_gives_the_end_of_its_dataflow(tmp_path, cli):
    config = load_config(DIGITS, {"train.run_dir": str(tmp_path / "run"), "train.total_steps": 60})
    train(config, console=QUIET)
    code, printed = cli("export", tmp_path / "run", tmp_path / "out", "--to", "torch")
    assert code == 0, printed
    loaded = load_run(tmp_path / "run")
    given = config.data.make("data").held_out.batch(torch.arange(7))
    parts = loaded.components
    code = parts["encoder"](parts["patch_embedder"](given["image"]), parts["info_embedder"](given["profile"]))
    found = run_alone(tmp_path / "out", "model", given)
    torch.testing.assert_close(found, parts["head"](code))


def test_the_script_alone_shows_inputs_and_outputs_and_checks_itself(tmp_path, cli):
    run = trained(policy_config(tmp_path / "run"))
    assert cli("export", run, tmp_path / "out", "--to", "torch")[0] == 0

    def run_script():
        command = [sys.executable, "-I", str(tmp_path / "out/policy.py")]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    shown = run_script()
    assert shown.returncode == 0, shown.stderr
    for line in (
        "observation.images.top  uint8 (N, 2, 3, 8, 8)",
        "actions  float32 (N, 3, 2)",
        "example is reproduced",
    ):
        assert line in shown.stdout
    weights = tmp_path / "out/policy.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 16
    weights.write_bytes(content)
    damaged = run_script()
    assert (damaged.returncode, "Traceback" in damaged.stderr) == (1, False)
    assert "policy.safetensors: is damaged, or of another export" in damaged.stderr


def test_other_inputs_are_refused_by_the_script(tmp_path, cli):
    run = trained(policy_config(tmp_path / "run"))
    assert cli("export", run, tmp_path / "out", "--to", "torch")[0] == 0
    space = {"__name__": "exported", "__file__": str(tmp_path / "out/policy.py")}
    exec((tmp_path / "out/policy.py").read_text(), space)
    model, given = space["load"](), batch_for(load_run(run).policy, 2)
    assert model(given).shape == (2, 3, 2)
    for changed, message in (
        ({STATE: given[STATE]}, rf"'{IMAGE}' is missing; got {STATE}"),
        ({**given, IMAGE: given[IMAGE].float()}, r"must be torch\.uint8, \(N, 2, 3, 8, 8\); got torch\.float32"),
        (
            {**given, STATE: given[STATE][:, :1]},
            r"must be torch\.float32, \(N, 2, 3\); got torch\.float32, \(2, 1, 3\)",
        ),
        ({**given, STATE: given[STATE][:1]}, r"must have the same N; got \[1, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model(changed)


@pytest.mark.parametrize(
    "made", [policy_config, lambda run: sample_two_ways.config(run, num_inference_steps=2)], ids=["cloning", "flow"]
)
def test_every_tensor_of_a_script_is_on_the_device_that_is_asked_for(tmp_path, cli, made):
    run = trained(made(tmp_path / "run"))
    assert cli("export", run, tmp_path / "out", "--to", "torch")[0] == 0
    space = {"__name__": "exported", "__file__": str(tmp_path / "out/policy.py")}
    exec((tmp_path / "out/policy.py").read_text(), space)
    given = {name: value.to("meta") for name, value in batch_for(load_run(run).policy, 3).items()}
    actions = space["load"]("meta")(given)  # torch refuses to mix it with another device
    assert (actions.device.type, len(actions)) == ("meta", 3)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("export_branch", r"component net cannot be written as a fixed computation: .*data-dependent"),
        ("export_cond", r"component net uses the operator .*cond"),
        ("export_listed", r"component net cannot be written as a fixed computation"),
        ("export_counter", r"component net\.calls is changed by each call"),
        ("export_custom", r"component net\.inner uses the operator innerstep_tests\.doubled\.default"),
    ],
)
def test_what_has_no_fixed_graph_is_refused_by_the_component_and_the_reason(tmp_path, cli, key, message):
    run = trained(head_config(policy_config, tmp_path / "run", key))
    before = files_of(tmp_path)
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert code == 2
    assert files_of(tmp_path) == before
    assert not (tmp_path / "out").exists()
    assert re.search(message, printed), printed


@pytest.mark.filterwarnings("ignore:.*not finite. net.limits:UserWarning")  # a NaN is worth a warning, too
def test_a_buffer_with_a_nan_is_not_taken_for_a_memory(tmp_path, cli):
    run = trained(head_config(policy_config, tmp_path / "run", "export_unset"))
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert code == 0, printed
    assert load_file(tmp_path / "out/policy.safetensors")["net.limits"].isnan().tolist() == [False, True]


def test_an_objective_that_computes_losses_only_is_refused(tmp_path, cli):
    config = head_config(policy_config, tmp_path / "run", "export_recurrent", "export_nothing")
    run = trained(config)
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch")
    assert (code, "predict(components, batch); got 'export_nothing'" in printed) == (2, True)
    assert not (tmp_path / "out").exists()


def test_the_averaged_weights_of_a_run_are_exported(tmp_path, cli):
    config = policy_config(tmp_path / "run")
    for entry in config["model"]["component_optims"].values():
        entry.update({"type": "schedule_free_radam", "params": {"lr": 1e-2}})
    run = trained(config)
    assert cli("export", run, tmp_path / "out", "--to", "torch")[0] == 0
    newest = tmp_path / "run/checkpoints/step_00000012"
    assert json.loads((newest / "manifest.json").read_text())["step"] == 12
    saved = load_file(newest / "embedder/model.safetensors")
    exported = load_file(tmp_path / "out/policy.safetensors")
    assert all(torch.equal(exported[f"embedder.{name}"], value) for name, value in saved.items())
