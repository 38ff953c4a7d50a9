"""The values that fields of a config take, from any source: text as typed, paths, numbers, booleans, tuples."""

import math
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import sample_bad_constructors
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import model_validator
from rich.console import Console
from sample_runs import ADAMW, config

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from optimizer.schedules.base import short
from trainer import ConfigError, load_config, resume, train
from trainer.config.overrides import parse_overrides
from trainer.config.paths import as_text, expand
from trainer.config.yaml_file import read_config_file
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import plan_text

QUIET = Console(quiet=True)


def one(run_dir="run", component=None, optim=ADAMW, **changed):
    return config(run_dir, {"first": component or {"type": "normed"}}, {"first": optim}, **changed)


def overridden(*arguments, raw=None):
    return load_config(raw or one(), parse_overrides(arguments))


def refused(raw, *arguments):
    with pytest.raises(ConfigError) as error:
        OfflineTrainer(overridden(*arguments, raw=raw), QUIET)
    return str(error.value)


TYPED = [
    "runs/exp #3",
    "2026-11-25",
    "42",
    "007",
    "a: b",
    "{x}",
    "[x",
    "'quoted'",
    "1e3",
    "null",
    "true",
    "*x",
    "(1,2)",
    "- a",
]


@pytest.mark.parametrize("text", TYPED)
def test_a_field_for_text_takes_an_override_as_it_was_typed(text):
    assert overridden(f"--train.run_dir={text}").train.run_dir == Path.cwd() / text
    component = {"type": "sample_bad_constructors.Failing", "params": {"way": "none"}}
    read = overridden("--model.components.first.params.label", text, raw=one(component=component))
    assert read.model.components["first"].params["label"] == text


def test_the_type_may_come_with_the_text_that_its_field_takes():
    arguments = ["--model.components.first.params.label=007", "--model.components.first.params.flag=true"]
    read = overridden(*arguments, "--model.components.first.type=sample_bad_constructors.Failing")
    assert read.model.components["first"].params == {"label": "007", "flag": True}


def test_a_class_of_a_plugin_that_the_command_line_names_takes_its_text():
    raw = {**one(), "plugins": []}
    raw["data"] = {"type": "noise", "batch_size": 8}
    read = overridden("--data.params.path=007", "--plugins=[sample_parts]", raw=raw)
    assert read.data.params == {"path": "007"}


def test_an_empty_value_of_a_field_for_text_or_nothing_is_nothing():
    component = {"type": "sample_bad_constructors.Failing", "params": {"way": "none", "note": "x"}}
    for text, value in {"null": None, "~": None, "007": "007", "yes": "yes"}.items():
        read = overridden(f"--model.components.first.params.note={text}", raw=one(component=component))
        assert read.model.components["first"].params["note"] == value
    assert overridden("--resume.on_change=null").resume.on_change is None


def test_init_from_takes_text_as_typed_or_a_mapping():
    first = "--model.components.first.init_from"
    assert overridden(f"{first}=runs/exp #3").model.components["first"].init_from.path == Path.cwd() / "runs/exp #3"
    read = overridden(f"{first}={{path: runs/x, optimizer: true}}").model.components["first"].init_from
    assert (read.path, read.optimizer) == (Path.cwd() / "runs/x", True)
    assert overridden(f"{first}=null").model.components["first"].init_from is None
    assert overridden(f"{first}.path=007").model.components["first"].init_from.path == Path.cwd() / "007"


def test_other_fields_are_read_as_yaml_also_inside_a_schedule():
    optim = {"type": "adamw", "params": {"lr": 1e-2, "schedule": {"type": "plateau"}}}
    params = "--model.component_optims.first.params"
    read = overridden(
        f"{params}.schedule.monitor=007",
        f"{params}.schedule.patience=7",
        f"{params}.betas=(0.8,0.9)",
        raw=one(optim=optim),
    )
    assert read.model.component_optims["first"].params == {
        "lr": 1e-2,
        "schedule": {"type": "plateau", "monitor": "007", "patience": 7},
        "betas": [0.8, 0.9],
    }


@pytest.mark.parametrize("place", ["components", "component_optims"])
def test_a_misspelt_name_in_an_override_gets_the_nearest(place):
    key = f"--model.{place}.frist.params.x"
    told = refused(one(), f"{key}=1")
    assert told.startswith(f"{key}: there is no 'frist' in model.{place}; did you mean 'first'? To add it")


def test_an_override_may_add_a_component():
    arguments = ["--model.components.second.type=mlp", "--model.components.second.freeze=true"]
    assert list(overridden(*arguments).model.components) == ["first", "second"]


def test_paths_are_filled_in_and_written_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNS", str(tmp_path / "ru$ns"))
    assert overridden("--train.run_dir=~/x").train.run_dir == tmp_path / "home/x"
    assert overridden("--train.run_dir=a~/~").train.run_dir == Path.cwd() / "a~/~"
    monkeypatch.setenv("SHORT", "~/r")
    assert overridden("--train.run_dir=$SHORT/x").train.run_dir == tmp_path / "home/r/x"
    assert overridden("--train.run_dir=./~/x").train.run_dir == Path.cwd() / "~/x"
    assert overridden("--train.run_dir=~/$$x/${RUNS}").train.run_dir == Path(f"{tmp_path}/home/$x/{tmp_path}/ru$ns")
    run_dir = train(one("$RUNS/x", total_steps=1), console=QUIET).run_dir
    assert run_dir == tmp_path / "ru$ns/x"
    assert load_config(run_dir / "config.yaml").train.run_dir == run_dir
    assert resume(run_dir, parse_overrides(["--train.total_steps=2"]), console=QUIET).run_dir == run_dir
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ru$ns"]


PATHS = {
    "": "must not be empty",
    "a\0b": "cannot hold the character NUL",
    "$NO_SUCH_THING/x": "the environment variable 'NO_SUCH_THING' is not set",
    "${NO_SUCH_THING}": "the environment variable 'NO_SUCH_THING' is not set",
    "~nobody-at-all/x": "there is no such user",
}


@pytest.mark.parametrize("text", PATHS)
def test_a_path_that_is_none_is_refused(text):
    assert refused(one(text)).startswith("train.run_dir: ")
    assert PATHS[text] in refused(one(text))
    component = {"type": "normed", "init_from": {"path": text}}
    assert PATHS[text] in refused(one(component=component))


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
@example("$HOME/$$/~")
@example("~root")
def test_a_path_is_read_back_from_its_text(name):
    assert Path(expand(as_text(Path(name)))) == Path(name)


def test_a_path_with_a_colon_that_exists_wins_over_a_component(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(one("runs/lr:high", total_steps=1), console=QUIET)
    read = {text: overridden(f"--model.components.first.init_from={text}") for text in ("runs/lr:high", "runs/lr:low")}
    paths = [
        (init.path, init.component) for init in (made.model.components["first"].init_from for made in read.values())
    ]
    assert paths == [(tmp_path / "runs/lr:high", None), (tmp_path / "runs/lr", "low")]
    OfflineTrainer(read["runs/lr:high"], QUIET)


@pytest.mark.parametrize("text", ["yes", "on", "True", "false", "1"])
def test_text_is_no_boolean(text):
    raw = one(compile=text)
    raw["model"]["component_optims"]["first"] = {"type": "adamw", "params": {"amsgrad": text}}
    raw["model"]["components"]["first"] = {"type": "sample_bad_constructors.Failing", "params": {"flag": text}}
    told = refused(raw).splitlines()
    for path in ("model.components.first.params.flag", "model.component_optims.first.params.amsgrad", "train.compile"):
        assert any(line.startswith(f"{path}: must be true or false, without quotes; got {text!r}") for line in told)


def test_a_tuple_as_text_is_a_list_where_one_may_stand(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("plain: (0.8, 0.9)\nquoted: '(0.8, 0.9)'\n")
    read = read_config_file(path)
    for betas in read.values():
        assert OPTIMIZER_BUILDER_REGISTRY["adamw"](betas=betas).betas == (0.8, 0.9)
    assert "must be a list; got '(0.8, 0.9'" in refused(one(optim={"type": "adamw", "params": {"betas": "(0.8, 0.9"}}))
    assert overridden(raw=one("(old, new)")).train.run_dir == Path.cwd() / "(old, new)"


@pytest.mark.parametrize("number", [2**63, 10**30, 1e30, -1])
def test_numbers_that_count_fit_64_bits(number):
    raw = {**one(total_steps=number, save_every=number), "seed": number}
    raw["data"]["batch_size"] = number
    raw["model"]["components"]["first"] = {"type": "mlp", "params": {"in_features": number}}
    told = refused(raw)
    for path in ("seed", "data.batch_size", "model.components.first.params.in_features", "train.total_steps"):
        assert f"{path}: must be" in told


def test_the_largest_seed_trains(tmp_path):
    raw = {**one(tmp_path / "run", total_steps=2), "seed": 2**63 - 1}
    assert train(raw, console=QUIET).step == 2


def test_a_batch_larger_than_the_data_is_noted_in_the_plan():
    raw = one()
    raw["data"]["batch_size"] = 1000
    told = plan_text(OfflineTrainer(load_config(raw), QUIET).plan())
    assert "warning: data.batch_size: 1000 is more than the 37 samples of the training data" in told
    assert "warning" not in plan_text(OfflineTrainer(load_config(one()), QUIET).plan())


def test_a_horizon_takes_whole_numbers_of_any_library():
    assert Horizon(np.int64(10), torch.tensor(5)) == Horizon(10, 5)
    assert type(Horizon(np.int64(10)).total_steps) is int
    for number in (0, 10.0, True, "10", 2**63, None, np.float64(3)):
        with pytest.raises(ValueError, match=r"Horizon\.total_steps must be at least 1"):
            Horizon(number)


BAD = "sample_bad_constructors"
CONSTRUCTORS = {
    "key": "KeyError: 'width' (sample_bad_constructors.py:",
    "attribute": "AttributeError: 'Failing' object has no attribute 'no_such_thing' (sample_bad_constructors.py:",
    "memory": "RuntimeError: ",
    "exit": "SystemExit: 3 (sample_bad_constructors.py:",
    "value": "the widths do not fit (sample_bad_constructors.py:",
    "number": "invalid literal for int() with base 10: 'twelve' (sample_bad_constructors.py:",
}


@pytest.mark.parametrize("way", CONSTRUCTORS)
def test_whatever_a_constructor_raises_is_an_error_with_path_and_line(way):
    told = refused(one(component={"type": f"{BAD}.Failing", "params": {"way": way}}))
    assert told.startswith("model.components.first.params: ")
    assert CONSTRUCTORS[way] in told


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (one(component={"type": f"{BAD}.WithoutSuper"}), "model.components.first.params: "),
        (one(component={"type": f"{BAD}.BadAnnotation"}), "model.components.first.params: "),
        (one(data={"type": f"{BAD}.FailingData"}), "data.params: "),
        (one(optim={"type": "sample_bad_constructors.FailingFactory"}), "model.component_optims.first.params: "),
        (one(optim={"type": "sample_bad_constructors.FailingBuild"}), "model.component_optims.first.params: "),
    ],
    ids=["AttributeError", "NameError", "KeyError", "LookupError", "ArithmeticError"],
)
def test_whatever_a_part_raises_is_an_error_with_its_path(section, message, request):
    told = refused(section)
    assert told.startswith(message)
    assert request.node.callspec.id in told
    assert "\n" not in told


def test_a_class_whose_annotation_is_wrong_is_named_with_its_line():
    told = refused(one(component={"type": f"{BAD}.BadAnnotation"}))
    lines = Path(sample_bad_constructors.__file__).read_text().splitlines()
    assert f"{sample_bad_constructors.__file__}:{lines.index('class BadAnnotation(nn.Module):') + 1})" in told


def test_a_plugin_that_leaves_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_that_leaves.py").write_text("import sys\n\nsys.exit(3)\n")
    told = refused({**one(), "plugins": ["plugin_that_leaves"]})
    file = tmp_path / "plugin_that_leaves.py"
    assert told.startswith(f"plugins.0: plugin_that_leaves cannot be imported: SystemExit: 3 ({file}:3)")
    told = refused(one(component={"type": "plugin_that_leaves.Model"}))
    assert "first.type: component 'plugin_that_leaves.Model': plugin_that_leaves cannot be imported: SystemExit" in told


@pytest.mark.parametrize("name", ["training", "_modules", "_parameters", "_buffers", "forward", "é", "a.b", ""])
def test_a_name_that_a_module_cannot_have_is_refused(name):
    told = refused(config("run", {"first": {"type": "normed"}, name: {"type": "normed"}}, {"first": ADAMW}))
    assert "cannot be a component's name" in told


def test_a_message_about_a_long_name_of_a_module_is_short():
    for raw in (one(component={"type": f"{'x' * 5000}.{'y' * 5000}"}), {**one(), "plugins": ["z" * 10_000]}):
        told = refused(raw)
        assert "cannot be imported: there is no module" in told
        assert len(told) < 1500


def test_a_plugin_whose_error_has_no_message_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "class E(Exception):\n    def __str__(self):\n        return 1 / self.zero\n\n\nraise E\n"
    (tmp_path / "plugin_without_words.py").write_text(code)
    told = refused({**one(), "plugins": ["plugin_without_words"]})
    file = tmp_path / "plugin_without_words.py"
    assert f"E: without a message, as its own fails: AttributeError ({file}:6)" in told


def test_an_optimizer_of_no_component_hides_no_error_in_another_entry():
    raw = config(
        "run", {"first": {"type": "normed"}}, {"frist": ADAMW, "first": {"type": "adamw", "params": {"lr": -1}}}
    )
    assert refused(raw).startswith("model.component_optims.first.params.lr: must be at least 0")


def test_a_preset_of_no_component_is_refused():
    raw = config("run", {"first": {"type": "normed"}}, {"first": ADAMW, "frist": {"type": "preset"}})
    assert refused(raw).startswith("model.component_optims.frist: there is no component of this name; did you mean")


def test_a_message_about_a_long_value_is_short():
    told = refused(one(component={"type": "normed", "params": {"width": "x" * 10_000}}))
    assert "must be a whole number" in told
    assert len(told) < 500
    assert os.linesep not in told


def test_a_run_of_any_length_is_planned():
    warmup = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "start_lr": 1e-5, "warmup_steps": 3}}
    told = plan_text(OfflineTrainer(load_config(one(optim=warmup, total_steps=2**62)), QUIET).plan())
    assert f"{2**62} updates of 8 samples" in told
    raw = one(total_steps=None, epochs=2**62)
    assert "train.epochs: must make less than 2^63 updates" in refused(raw)


class Counting(OPTIMIZER_BUILDER_REGISTRY["adamw"]):
    validated: ClassVar[list[str]] = []

    @model_validator(mode="after")
    def _count(self):
        self.validated.append(self.schedule.key)
        return self


def test_a_factory_is_validated_once_between_the_config_and_the_optimizer(monkeypatch):
    cosine = {"type": "cosine", "num_warmup_steps": "50%"}
    optim = {
        "type": f"{__name__}.Counting",
        "params": {"schedule": cosine, "option_schedules": {"weight_decay": cosine}},
    }
    monkeypatch.setattr(Counting, "validated", [])
    monkeypatch.setattr(Counting, "__module__", "optimizer.factories")  # the rule is for the library's own classes
    trainer = OfflineTrainer(load_config(one(optim=optim, total_steps=8)), QUIET)
    assert Counting.validated == ["cosine"]
    assert trainer.optimizers["first"].scheduler.schedule.num_warmup_steps == 4


def test_an_infinite_lr_is_shown_as_it_is():
    assert [short(value) for value in (2.5e-3, 0.0, math.inf)] == ["2.5e-03", "0", "inf"]
