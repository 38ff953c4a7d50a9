"""The command line: its output, and its errors."""

import inspect
import re
import subprocess
import sys

import pytest
import yaml
from conftest import DIGITS
from sample_optimizers import BY_PATH

from trainer import DATASET_REGISTRY


def changed(tmp_path, edit):
    """Write the demo's config with `edit` done to it; return its path."""
    config = yaml.safe_load(DIGITS.read_text())
    config["train"]["run_dir"] = str(tmp_path / "run")
    edit(config)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def put(*path, value):
    def edit(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return edit


def drop(*path):
    def edit(config):
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    return edit


ENCODER = ("model", "component_optims", "encoder")
MISTAKES = {
    "unknown optimizer": (
        put(*ENCODER, "type", value="adamw_warmup_cosin_decay"),
        "model.component_optims.encoder.type: unknown optimizer 'adamw_warmup_cosin_decay'; "
        "did you mean 'adamw_warmup_cosine_decay'",
    ),
    "unknown component": (
        put("model", "components", "head", "type", value="mpl"),
        "model.components.head.type: unknown component 'mpl'; did you mean 'mlp'",
    ),
    "unknown data set": (
        put("data", "type", value="digit"),
        "data.type: unknown data set 'digit'; did you mean 'digits'",
    ),
    "unknown objective": (
        put("train", "objective", "type", value="clasification"),
        "train.objective.type: unknown objective 'clasification'; did you mean 'classification'",
    ),
    "misspelt parameter": (
        put(*ENCODER, "params", "warmup_step", value=3),
        "model.component_optims.encoder.params.warmup_step: unknown name; did you mean 'warmup_steps'",
    ),
    "misspelt component parameter": (
        put("model", "components", "encoder", "params", "head", value=3),
        "model.components.encoder.params.head: unknown name; did you mean 'heads'",
    ),
    "misspelt section": (
        put("train", "total_step", value=3),
        "train.total_step: unknown name; did you mean 'total_steps'",
    ),
    "wrong range": (
        put(*ENCODER, "params", "peak_lr", value=-1.0),
        "model.component_optims.encoder.params.peak_lr: must be greater than 0; got -1.0",
    ),
    "wrong type": (
        put(*ENCODER, "params", "peak_lr", value="fast"),
        "model.component_optims.encoder.params.peak_lr: must be a number",
    ),
    "lr above the peak": (
        put(*ENCODER, "params", "start_lr", value=1.0),
        "model.component_optims.encoder.params.start_lr: must be <= peak_lr; got 1.0 with peak_lr 0.002",
    ),
    "warm-up longer than the run": (
        put(*ENCODER, "params", "warmup_steps", value=700),
        "model.component_optims.encoder.params.warmup_steps: must be < total_steps; got 700 with total_steps 600. "
        "Lower it or train longer.",
    ),
    "component without an optimizer": (
        drop("model", "component_optims", "head"),
        "model.component_optims: no entry for component 'head', which is trainable. "
        "Add one, or set model.components.head.freeze to true.",
    ),
    "optimizer of no component": (
        put("model", "component_optims", "haed", value={"type": "adamw"}),
        "model.component_optims.haed: there is no component of this name; did you mean 'head'",
    ),
    "name of a method": (
        put("model", "components", "train", value={"type": "mlp"}),
        "model.components.train: cannot be a component's name",
    ),
    "parameters that do not fit together": (
        put("model", "components", "encoder", "params", "heads", value=5),
        "model.components.encoder.params: heads must divide dim; got 5 for 64",
    ),
    "wiring of no component": (
        put("train", "objective", "params", "wiring", 3, value="scores = heads(code)"),
        "train.objective.params.wiring: no component 'heads'; did you mean 'head'",
    ),
    "wiring of no value": (
        put("train", "objective", "params", "wiring", 3, value="scores = head(cod)"),
        "train.objective.params.wiring: 'cod' is neither an entry of the batch nor an earlier result; "
        "did you mean 'code'",
    ),
    "unwired component": (
        put("model", "components", "spare", value={"type": "mlp", "freeze": True}),
        "train.objective.params.wiring: component 'spare' is not used",
    ),
    "malformed wiring": (
        put("train", "objective", "params", "wiring", 3, value="scores = head code"),
        "train.objective.params: wiring: must be lines like",
    ),
    "no label": (
        put("train", "objective", "params", "label", value="lable"),
        "train.objective.params.label: the batch has no 'lable'; it has image, profile, label",
    ),
    "no length": (drop("train", "total_steps"), "train.total_steps: give total_steps or epochs"),
    "missing section": (drop("train", "run_dir"), "train.run_dir: required, but not given"),
    "missing plugin": (put("plugins", value=["no_such_module"]), "plugins.0: no_such_module cannot be imported"),
    "no such device": (put("train", "device", value="gpu"), "train.device: no such device; got 'gpu'"),
    "missing weights": (
        put("model", "components", "head", "init_from", value="/nowhere"),
        "model.components.head.init_from: /nowhere/model.safetensors: is missing",
    ),
    "empty data": (
        put("data", value={"type": "sample_parts.Noise", "params": {"samples": 0}}),
        "data: the training split is empty",
    ),
    "missing data": (
        put("data", value={"type": "sample_parts.Noise", "params": {"path": "/nowhere/data.bin"}}),
        "data.params: [Errno 2] No such file or directory: '/nowhere/data.bin'",
    ),
    "components that do not fit together": (
        put("model", "components", "head", "params", "in_features", value=32),
        "model.components.head: fails on an input of shape [2, 64]: RuntimeError: mat1 and mat2 shapes",
    ),
    "scores that are none": (
        put("train", "objective", "params", "label", value="profile"),
        "train.objective: fails on a batch of image [2, 8, 8], profile [2, 16], label [2]: ",
    ),
    "batch norm over one sample": (
        lambda config: (
            config["data"].update(batch_size=1437),
            config["model"]["components"]["head"]["params"].update(batch_norm=True),
        ),
        "data: the last batch of an epoch has one sample",
    ),
    "optimizer that needs a closure": (
        put("model", "component_optims", "head", value={"type": "LBFGS"}),
        "model.component_optims.head.type: LBFGS evaluates the loss several times an update, which the trainer",
    ),
    "several optimizers for one component": (
        put(
            "model",
            "component_optims",
            "head",
            value={"type": "multi_adam", "params": {"optimizer_groups": {"layers": {}}}},
        ),
        "model.component_optims.head.type: multi_adam builds several optimizers, and a component has one.",
    ),
    "preset of a class that has none": (
        put("model", "component_optims", "head", value={"type": "preset"}),
        "model.component_optims.head.type: mlp brings no preset",
    ),
    "metric that is never reported": (
        put(
            "model",
            "component_optims",
            "head",
            value={"type": "adamw", "params": {"schedule": {"type": "plateau", "monitor": "val_acuracy"}}},
        ),
        "schedule: waits for 'val_acuracy', which is never reported; did you mean 'val_accuracy' or",
    ),
    "metric that comes too late": (
        lambda raw: (
            put(
                "model",
                "component_optims",
                "head",
                value={"type": "adamw", "params": {"schedule": {"type": "plateau"}}},
            )(raw),
            put("train", "eval_every", value=None)(raw),
        ),
        "waits for 'val_loss', but evaluations come at the end only. Set train.eval_every to less",
    ),
    "rule that matches nothing": (
        put(
            "model",
            "component_optims",
            "head",
            value={"type": "adamw", "params": {"param_groups": [{"match": "layer.*"}]}},
        ),
        "model.component_optims.head.params: param_groups.0: no parameter's name matches 'layer.*'",
    ),
    "optimizer of matrices only": (
        put("model", "component_optims", "head", value={"type": "muon"}),
        "model.component_optims.head.params: Muon takes matrices only, and these are not matrices: layers.0.bias",
    ),
    "empty section": (put("model", value=None), "model: must be a mapping; got null"),
    "all frozen": (
        lambda config: [component.update(freeze=True) for component in config["model"]["components"].values()],
        "every one is frozen",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_path_and_remedy(cli, tmp_path, mistake):
    edit, message = MISTAKES[mistake]
    code, printed = cli("train", changed(tmp_path, edit))
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) <= 24, "more than one screen"
    assert not (tmp_path / "run").exists(), "something was written before the mistake was found"


def test_all_mistakes_are_reported_at_once(cli, tmp_path):
    def edit(config):
        for name in ("wrong range", "misspelt section", "unknown component"):
            MISTAKES[name][0](config)

    code, printed = cli("plan", changed(tmp_path, edit))
    assert code == 2
    assert len(printed.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("train: [", ":1:9: a value is missing here"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice"),
        ("- a list", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("!!python/object/apply:os.system [echo]", "the tag !!python/object/apply:os.system is not allowed"),
    ],
)
def test_a_bad_config_file_is_named(cli, tmp_path, text, message):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    code, printed = cli("train", path)
    assert code == 2
    assert f"{path}:" in printed
    assert message in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.total_steps"], "no value"),
        (["train.total_steps=3"], "not understood"),
        (["--seed.x=3"], "--seed.x: seed is 0, which has no fields"),
        (["--train.total_stepz=3"], "did you mean 'total_steps'"),
        (["--train.total_steps=[1"], "is not a YAML value"),
    ],
)
def test_a_bad_override_is_named(cli, arguments, message):
    code, printed = cli("plan", DIGITS, *arguments)
    assert code == 2
    assert message in printed


def test_overrides_in_all_their_forms(cli):
    code, printed = cli(
        "plan",
        DIGITS,
        "--model.component_optims.encoder.params.peak_lr=4e-3",
        "--model.component_optims.encoder.params.betas",
        "(0.95,0.999)",
        "--train.total_steps=500",
    )
    assert code == 0
    assert "1e-05 ↗ 4e-03 (50) ↘ 1e-05 (500)" in printed


def test_a_mapping_may_be_written_without_spaces(cli):
    options = "--model.component_optims.encoder={type:sgd,params:{lr:0.01,momentum:0.9,weight_decay:0.0001}}"
    code, printed = cli("plan", DIGITS, options)
    assert code == 0, printed
    assert re.search(r"encoder .* sgd ", printed)


def test_plan_shows_every_component_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed = cli("plan", DIGITS)
    assert code == 0
    assert re.search(r"patch_embedder +320 +frozen +- +- +-\n", printed)
    assert re.search(
        r"encoder +68.2 k +yes +adamw_warmup_cosine_decay +fused +1e-05 ↗ 2e-03 \(50\) ↘ 1e-05 \(600\)\n", printed
    )
    assert "patch_embedder is frozen: its optimizer adamw is skipped" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_overwritten_unless_asked(cli, tmp_path):
    short = ["--train.total_steps=51", "--train.pictures=false", f"--train.run_dir={tmp_path / 'run'}"]
    assert cli("train", DIGITS, *short)[0] == 0
    code, printed = cli("train", DIGITS, *short)
    assert code == 2
    assert "innerstep resume" in printed
    assert cli("train", DIGITS, *short, "--overwrite")[0] == 0


def test_overwrite_deletes_nothing_but_runs(cli, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, printed = cli("train", DIGITS, f"--train.run_dir={tmp_path}", "--overwrite")
    assert code == 2
    assert "exists and is not a run" in printed
    assert (tmp_path / "thesis.tex").exists()


def test_resume_without_a_run(cli, tmp_path):
    code, printed = cli("resume", tmp_path)
    assert code == 2
    assert "there is no run here" in printed


def test_describe_shows_every_key(cli):
    keys = [line.split()[0] for line in cli("list")[1].splitlines() if line.startswith("  ")]
    keys = [key for key in keys if key != "lerobot.NAME"]  # stands for keys that LeRobot brings
    assert len(keys) > 70
    for key in [*keys, *BY_PATH]:
        code, printed = cli("describe", key)
        assert code == 0, printed
        assert "parameters:" in printed or printed.startswith("metrics sink")  # a config gives a sink none
        assert "anything" not in printed or "." in key


def test_list_and_describe(cli):
    code, printed = cli("list")
    assert code == 0
    for key in (
        "adamw_warmup_cosine_decay",
        "one_cycle",
        "transformer",
        "digits",
        "lerobot",
        "classification",
        "behaviour_cloning",
        "gym",
    ):
        assert key in printed
    assert all(f"torch.optim.{name}." in printed for name in ("AdamW", "Adafactor", "Muon"))
    code, printed = cli("describe", "ADAMW_WARMUP_COSINE_DECAY")
    assert code == 0
    assert "peak_lr: number (> 0), required" in printed
    assert "weight_decay: number (>= 0), default 0.01" in printed
    code, printed = cli("describe", "transformer")
    assert "dropout: number (>= 0, < 1), default 0.1" in printed
    code, printed = cli("describe", "adamww")
    assert code == 2
    assert "did you mean" in printed
    assert "'adamw'" in printed


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "trainer", "plan", DIGITS], capture_output=True, text=True, check=True)
    assert "adamw_warmup_cosine_decay" in done.stdout


def test_describe_shows_the_parameters_of_a_constructor_in_its_order(cli):
    _, printed = cli("describe", "lerobot")
    names = re.findall(r"^    (\w+): ", printed.partition("  parameters:")[2], re.MULTILINE)
    assert names == [*inspect.signature(DATASET_REGISTRY["lerobot"]).parameters]
