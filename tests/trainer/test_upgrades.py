"""Runs of other versions: fields that they lack have their defaults, and newer ones are reported as newer."""

import json
import shutil

import pytest
import sample_parts
import yaml
from mutations import seal
from rich.console import Console
from sample_runs import WARMUP, config

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from trainer import ConfigError, load_config, resume, train
from trainer.checkpoint.fingerprint import leaves
from trainer.checkpoint.upgrades import upgrade_values
from trainer.config.entries import OptimConfig
from trainer.runtime.version import heading, innerstep_version, newer, writer_version

MIDDLE = "checkpoints/step_00000002"
PLATEAU = {"type": "adamw", "params": {"lr": 1e-2, "schedule": {"type": "plateau", "patience": 1}}}
COMPONENTS = {"first": {"type": "normed"}, "second": {"type": "mlp", "params": {"in_features": 4, "out_features": 4}}}
OPTIM = "model.component_optims."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("upgrades") / "run"
    options = {"total_steps": 4, "save_every": 2, "eval_every": 2}
    train(config(run, COMPONENTS, {"first": WARMUP, "second": PLATEAU}, **options), console=Console(quiet=True))
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def edit(run, change):
    """Change the trainer's values in the checkpoint."""
    path = run / MIDDLE / "trainer.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    seal(run / MIDDLE)


def at(values, path):
    """Return the mapping that holds the last name of a dotted path, and that name."""
    *parents, last = path.split(".")
    for parent in parents:
        values = values[parent]
    return values, last


def resumed(run, overrides=None):
    console = Console(width=1000)
    with console.capture() as printed:
        resume(run / MIDDLE, overrides, console=console)
    return printed.get()


def given(run):
    """Return the paths in the config of the checkpoint whose values are not defaults."""
    return (
        *("data.batch_size", "data.type", "train.objective.type"),
        *(f"{OPTIM}first.{name}" for name in ("type", "params.peak_lr", "params.start_lr", "params.warmup_steps")),
        *(
            f"{OPTIM}second.{name}"
            for name in ("type", "params.schedule.type", "params.schedule.patience", "params.lr")
        ),
        *("model.components.first.type", "model.components.second.type"),
        *(f"model.components.second.params.{name}" for name in ("in_features", "out_features")),
    )


def test_every_field_with_a_default_may_be_absent_from_a_checkpoint(run):
    loaded = load_config(run / "config.yaml")
    values = json.loads((run / MIDDLE / "trainer.json").read_text())
    whole = leaves(values["config"])
    tried = []
    for path in [path for path in whole if path not in given(run)]:
        lacking = json.loads(json.dumps(values))
        holder, name = at(lacking["config"], path)
        del holder[name]
        assert leaves(upgrade_values(lacking, loaded)["config"]) == whole, path
        tried.append(path)
    assert {"seed", "train.compile", "data.drop_last", "model.components.first.freeze"} <= set(tried)
    assert {f"{OPTIM}second.params.amsgrad", f"{OPTIM}second.params.schedule.cooldown"} <= set(tried)
    assert f"{OPTIM}first.params.total_steps" in tried


def test_a_checkpoint_without_any_field_that_has_a_default_is_resumed(run):
    def change(values):
        for path in [path for path in leaves(values["config"]) if path not in given(run)]:
            holder, name = at(values["config"], path)
            del holder[name]

    edit(run, change)
    assert "resuming after 2 of 4 updates" in resumed(run)


def test_a_config_without_any_field_that_has_a_default_is_resumed(run):
    values = yaml.safe_load((run / "config.yaml").read_text())
    kept = (*given(run), "plugins", "train.total_steps", "train.run_dir", "train.eval_every", "train.save_every")
    for path in [path for path in leaves(values) if path not in (*kept, "train.device", "train.log_every")]:
        holder, name = at(values, path)
        del holder[name]
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    assert "resuming after 2 of 4 updates" in resumed(run)


def test_an_absent_field_is_its_default_and_not_todays_value(run):
    edit(run, lambda values: values["config"]["train"].pop("accumulate"))
    with pytest.raises(ConfigError, match=r"train.accumulate: saved 1, now 2"):
        resumed(run, {"train.accumulate": 2})
    resumed(run, {"train.accumulate": 2, "resume.on_change": "keep"})
    assert load_config(run / "config.yaml").train.accumulate == 1


REQUIRED = {
    "adamw_warmup_cosine_decay": {"peak_lr": 1e-3, "warmup_steps": 2},
    "adamw_cosine_schedule": {"max_lr": 1e-3},
    "multi_adam": {"optimizer_groups": {"actor": {"lr": 1e-3}}},
}


@pytest.mark.parametrize("key", list(OPTIMIZER_BUILDER_REGISTRY))
def test_what_a_factory_dumps_is_read_back_to_the_same_dump(key):
    params = OptimConfig(type=key, params=REQUIRED.get(key, {})).resolved_params(Horizon(20, 5))
    read_back = OptimConfig(type=key, params=json.loads(json.dumps(params)))
    assert read_back.resolved_params(Horizon(20, 5)) == params


class WithActivation(sample_parts.MODEL_REGISTRY["mlp"]):
    """`mlp` after an upgrade that gave its constructor another argument."""

    def __init__(self, in_features: int, out_features: int, activation: str = "gelu"):
        super().__init__(in_features, out_features)


def test_an_argument_that_a_component_has_got_since_may_be_given_by_its_default(run, monkeypatch):
    monkeypatch.setitem(sample_parts.MODEL_REGISTRY._classes, "mlp", WithActivation)
    name = "model.components.second.params.activation"
    with pytest.raises(ConfigError, match=rf"{name}: saved None, now 'relu'"):
        resumed(run, {name: "relu"})
    assert "resuming after 2 of 4 updates" in resumed(run, {name: "gelu"})


LATER = {
    f"{OPTIM}first.params.beta3": 0.5,
    f"{OPTIM}second.params.schedule.stretch": 3,
    "train.sharding": "none",
    "data.prefetch": 3,
    "model.components.first.tier": "disk",
    "model.components.second.params.biases": True,
}


@pytest.mark.parametrize("path", LATER)
@pytest.mark.parametrize("version", ["9.1.0", None])
def test_a_field_of_a_newer_version_is_said_to_be_one(run, path, version):
    def change(values):
        holder, name = at(values["config"], path)
        holder[name] = LATER[path]
        values["provenance"]["innerstep"] = version or values["provenance"]["innerstep"]

    edit(run, change)
    with pytest.raises(ConfigError) as refusal:
        resumed(run)
    assert f"{path}: saved {LATER[path]!r}, now None" in str(refusal.value)
    assert f"{path}: unknown" in str(refusal.value)
    assert ("written by a newer innerstep (9.1.0; this is" in str(refusal.value)) == (version is not None)
    assert "resuming after 2" in resumed(run, {"resume.on_change": "override"})


def test_a_misspelt_field_in_a_checkpoint_has_its_nearest_name(run):
    edit(run, lambda values: values["config"]["train"].update(acumulate=2))
    with pytest.raises(ConfigError, match=r"train.acumulate: unknown here; did you mean 'accumulate'"):
        resumed(run)


def test_a_checkpoint_brings_no_code_by_a_type_that_the_run_does_not_name(run, monkeypatch):
    def change(values):
        values["config"]["model"]["component_optims"]["second"]["params"]["schedule"]["type"] = "antigravity.Schedule"

    edit(run, change)
    imported = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    with pytest.raises(ConfigError, match=r"saved 'antigravity.Schedule'"):
        resumed(run)
    assert "antigravity" not in imported


def test_a_runs_config_says_which_version_wrote_it(run):
    first = (run / "config.yaml").read_text().splitlines()[0]
    assert first == f"# innerstep {innerstep_version()}, run format 1"
    assert writer_version(run / "config.yaml") == innerstep_version()
    values = json.loads((run / MIDDLE / "trainer.json").read_text())
    assert values["provenance"]["innerstep"] == innerstep_version()


def test_an_unknown_field_in_a_config_of_a_newer_version_is_said_to_be_one(run):
    path = run / "config.yaml"
    later = path.read_text() + "sharding: none\n"
    path.write_text(later)
    with pytest.raises(ConfigError) as refusal:
        resumed(run)
    assert "sharding: unknown name" in str(refusal.value)
    assert "newer" not in str(refusal.value)
    path.write_text(later.replace(innerstep_version(), "1000.2", 1))
    with pytest.raises(ConfigError, match=r"newer innerstep \(1000.2; this is .*: upgrade with `pip install"):
        resumed(run)


@pytest.mark.parametrize("text", ["", "data: {}\n", "# innerstep\n", "# innerstep 3\n", "\ufeff# notes\n", "#" * 999])
def test_a_file_without_the_line_says_no_version(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    assert writer_version(tmp_path / "config.yaml") is None
    assert writer_version(tmp_path / "absent.yaml") is None


def test_versions_are_compared_by_number(monkeypatch, tmp_path):
    monkeypatch.setattr("trainer.runtime.version.innerstep_version", lambda: "0.9.0")
    assert [bool(newer(text)) for text in ("0.10", "0.9.0.1", "1.0rc1", "0.9", "0.9.0", "0.8.99")] == [
        *(True, True, True, False, False, False)
    ]
    assert [newer(text) for text in ("unknown", None, 3, "", [1])] == [None] * 5
    (tmp_path / "config.yaml").write_text(heading())
    assert writer_version(tmp_path / "config.yaml") == "0.9.0"
