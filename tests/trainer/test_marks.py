"""The marks at the fields of the config, and the fingerprint that is read from them."""

import json
from typing import get_args

import pytest
from pydantic import BaseModel, Field
from rich.console import Console
from sample_runs import ADAMW, WARMUP, config, two

from optimizer.config.validation import Config
from trainer import load_config, train
from trainer.checkpoint.fingerprint import config_changes, leaves, run_fingerprint
from trainer.checkpoint.on_change import with_saved_values
from trainer.checkpoint.upgrades import upgrade_values
from trainer.config.freeze import FreezeUntil
from trainer.config.marks import FixedInRun, Mark, MayChange, fixed_fields, fixed_sections
from trainer.config.schema import ExperimentConfig

OPTIMS = {"first": {**WARMUP, "every": 2}, "second": ADAMW}


def configs_in(annotation):
    """Yield the configs in an annotation, which may be one itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from configs_in(inner)


def all_configs(model=ExperimentConfig):
    """Return a config and those inside."""
    inside = {inner for field in model.model_fields.values() for inner in configs_in(field.annotation)}
    return {model}.union(*map(all_configs, inside))


CONFIGS = sorted(all_configs(), key=lambda model: model.__name__)
FIELDS = [(model, name) for model in CONFIGS for name in model.model_fields]
IDS = [f"{model.__name__}.{name}" for model, name in FIELDS]


def test_every_config_of_an_experiment_is_looked_at():
    names = ["Best", "Component", "Data", "Distributed", "EarlyStopping", "Ema", "Evaluation", "Experiment"]
    names += ["Init", "Model", "Objective", "Optim", "Part", "Policy", "Resume", "Train"]
    assert [model.__name__ for model in CONFIGS if model is not FreezeUntil] == [f"{name}Config" for name in names]


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=IDS)
def test_every_field_carries_exactly_one_mark(model, name):
    marks = [note for note in model.model_fields[name].metadata if isinstance(note, Mark)]
    assert len(marks) == 1, "write FixedInRun[…] or MayChange[…]"


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=IDS)
def test_a_field_with_configs_is_marked_as_its_fields_are(model, name):
    inside = list(configs_in(model.model_fields[name].annotation))
    if FreezeUntil in inside:  # a value of a field that takes other values too: compared as a whole
        assert name in fixed_fields(model)
    elif name in fixed_fields(model):
        assert inside == [section.model for section in fixed_sections(model) if section.name == name]
        assert all(fixed_fields(inner) for inner in inside)
    else:
        assert not any(fixed_fields(inner) for inner in inside)


class Averaging(Config):
    decay: FixedInRun[float] = 0.99
    log_every: MayChange[int] = 10


class Later(ExperimentConfig):
    """The config of a later version, with new fields that have defaults: a value, and sections of three forms."""

    ranks: FixedInRun[int] = 1
    averaging: FixedInRun[Averaging] = Averaging()
    sharding: FixedInRun[Averaging | None] = None
    several: FixedInRun[dict[str, Averaging]] = Field(default_factory=dict)
    notes: MayChange[str] = ""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    raw = config(tmp_path_factory.mktemp("marks") / "run", two(), OPTIMS, total_steps=8, save_every=8)
    return train(raw, console=Console(quiet=True)).run_dir


@pytest.fixture
def saved(run):
    return json.loads((run / "checkpoints/step_00000008/trainer.json").read_text())


def later(run, **changed):
    return Later.model_validate({**load_config(run / "config.yaml").model_dump(mode="json"), **changed})


def now(saved, loaded):
    horizon = loaded.train.horizon(saved["horizon"]["steps_per_epoch"])
    return {**saved, "config": json.loads(json.dumps(run_fingerprint(loaded, list(OPTIMS), horizon)))}


def test_a_checkpoint_holds_the_fields_that_are_fixed_in_a_run_and_no_others(saved):
    fields = set(leaves(saved["config"]))
    assert {"seed", "data.batch_size", "train.grad_clip_norm", "train.objective.type"} <= fields
    assert {"model.components.first.freeze", "model.component_optims.first.every"} <= fields
    assert not any(name in path for path in fields for name in ("workers", "run_dir", "init_from", "device", "plugins"))


def test_lengths_in_a_fingerprint_are_filled_in_by_the_component_s_own_steps(saved):
    first = saved["config"]["model"]["component_optims"]["first"]
    assert (first["every"], first["params"]["total_steps"]) == (2, 4)


def test_nan_equals_nan_in_a_fingerprint():
    nan = float("nan")
    first = {"config": {"loss": nan, "betas": [nan, 0.9]}, "data": {"samples": 1, "steps_per_epoch": 1}}
    second = first | {"config": {"loss": float("nan"), "betas": [float("nan"), 0.9]}}
    assert config_changes(first, second) == []
    second["config"]["betas"][1] = nan
    assert [row[0] for row in config_changes(first, second)] == ["betas"]


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        ({}, []),
        ({"averaging": {"log_every": 3}, "notes": "x"}, []),
        ({"averaging": {"decay": 0.5}}, [("averaging.decay", 0.99, 0.5)]),
        ({"ranks": 2}, [("ranks", 1, 2)]),
        ({"sharding": {}}, [("sharding.decay", None, 0.99)]),
        ({"several": {"a": {}}}, [("several.a.decay", None, 0.99)]),
    ],
)
def test_a_new_field_is_its_default_in_an_older_checkpoint(run, saved, changed, rows):
    loaded = later(run, **changed)
    assert config_changes(upgrade_values(saved, loaded), now(saved, loaded)) == rows


def test_a_length_that_a_checkpoint_lacks_is_filled_in_by_the_component_s_own_steps(run, saved):
    loaded = load_config(run / "config.yaml")
    whole = leaves(saved["config"])
    del saved["config"]["model"]["component_optims"]["first"]["params"]["total_steps"]
    assert leaves(upgrade_values(saved, loaded)["config"]) == whole


def test_keep_takes_the_fixed_fields_alone_from_the_checkpoint(run, saved):
    changed = {"seed": 3, "averaging": {"decay": 0.5, "log_every": 3}, "sharding": {"log_every": 4}, "notes": "x"}
    loaded = later(run, **changed)
    saved["config"] |= {"sharding": {"decay": 0.25}, "notes": "y", "plugins": ["no_such_module"]}
    saved["config"]["train"]["run_dir"] = "elsewhere"
    kept = with_saved_values(loaded, saved, {})
    assert (kept.seed, kept.averaging.decay, kept.averaging.log_every, kept.notes) == (0, 0.99, 3, "x")
    assert (kept.sharding.decay, kept.sharding.log_every) == (0.25, 4)
    assert (kept.plugins, kept.train) == (loaded.plugins, loaded.train)


def test_a_field_that_may_change_since_a_later_version_is_not_compared(run, saved):
    loaded = load_config(run / "config.yaml")
    saved["config"]["train"]["log_every"] = 7
    assert config_changes(upgrade_values(saved, loaded), now(saved, loaded)) == []
