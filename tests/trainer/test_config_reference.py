"""The reference of the config's fields: `innerstep describe`, and the page generated from the same docstrings."""

import re
from enum import Enum
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from sample_files import PARTS, _forgets, _registers  # noqa: F401  # fixtures

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.config.errors import refusal
from trainer import MODEL_REGISTRY
from trainer.config.schema import ExperimentConfig
from trainer.reporting.config_reference import names, sections
from trainer.reporting.field_text import wrapped
from trainer.reporting.refused_options import refused_options
from trainer.runtime.version import innerstep_version

FIELDS = [field for section in sections() for field in section.fields]
PATHS = [section.head.path for section in sections()]


def test_the_page_is_what_the_docstrings_give_now():
    spec = spec_from_file_location("write_config_fields", ROOT / "docs" / "write_config_fields.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run `make config-fields`"
    anchors = {re.sub(r"[^\w -]", "", line[3:]).lower() for line in script.page().splitlines() if line[:3] == "## "}
    assert set(re.findall(r"\(#([^)]*)\)", script.page())) <= anchors


def test_the_sections_are_those_of_a_config():
    assert PATHS == [
        "config",
        "data",
        "model",
        "model.policy",
        "model.policy.parts.NAME",
        "model.components.NAME",
        "model.components.NAME.init_from",
        "model.component_optims.NAME",
        "train",
        "train.objective",
        "train.evaluation",
        "train.keep_best",
        "train.early_stopping",
        "train.ema",
        "distributed",
        "resume",
    ]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_every_field_has_a_docstring_a_type_and_a_default(field):
    assert len(field.meaning) > 20
    assert field.meaning.endswith(".")
    assert "anything" not in field.form
    assert re.search(r", (required|default .+)$", field.form.partition(";")[0])


@pytest.mark.parametrize("path", PATHS)
def test_describe_shows_every_field_of_a_section(cli, path):
    code, printed = cli("describe", path)
    assert code == 0
    assert f"section {path}: " in printed
    section = next(section for section in sections() if section.head.path == path)
    shown = re.findall(r"^    (\w+): ", printed, re.MULTILINE)
    assert shown == [field.path.rpartition(".")[2] for field in section.fields]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("train", "train"),
        ("TRAIN", "train"),
        ("keep_best", "train.keep_best"),
        ("components", "model.components.NAME"),
        ("component_optims", "model.component_optims.NAME"),
        ("init_from", "model.components.NAME.init_from"),
        ("model.components.head", "model.components.NAME"),
        ("model.components.head.init_from", "model.components.NAME.init_from"),
        ("model.policy.init_from", "model.policy.init_from"),
        ("model.policy.parts.head.init_from", "model.policy.parts.NAME.init_from"),
        ("model.policy", "model.policy"),
        ("parts", "model.policy.parts.NAME"),
    ],
)
def test_a_section_is_described_by_its_name_and_by_its_path(cli, name, path):
    code, printed = cli("describe", name)
    assert code == 0
    assert printed.startswith(f"section {path}: ")


def test_a_section_with_several_places_is_described_once(cli):
    printed = " ".join(cli("describe", "init_from")[1].split())
    assert printed.count("section model.") == 1
    assert "The same section: model.policy.parts.NAME.init_from, model.policy.init_from." in printed
    assert cli("describe", "strict")[1].count("field ") == 1
    assert cli("describe", "model.policy.init_from.strict")[0] == 0


def test_a_field_is_described_by_its_path_and_by_its_name(cli):
    head = "field train.save_every_minutes: number (> 0) | null, default 30.0; may change in a run"
    code, printed = cli("describe", "train.save_every_minutes")
    assert code == 0
    assert " ".join(printed.split()).startswith(f"{head} Minutes from one checkpoint")  # however long the lines are
    assert cli("describe", "save_every_minutes") == (0, printed)
    code, printed = cli("describe", "model.component_optims.head.every")
    assert "field model.component_optims.NAME.every: integer (>= 1), default 1" in printed
    fields = re.findall(r"^field (\S+):", cli("describe", "params")[1], re.MULTILINE)
    assert fields == [field.path for field in FIELDS if field.path.endswith(".params")]


def test_defaults_are_written_as_in_yaml(cli):
    printed = cli("describe", "data")[1] + cli("describe", "config")[1] + cli("describe", "train")[1]
    for text in (
        "drop_last: boolean, default false",
        "plugins: list of string, default []",
        "resume: mapping, default {}",
    ):
        assert text in printed
    assert "run_dir: path, required" in printed
    assert "default null" in printed
    assert "None" not in printed


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("trian", "'train'"), ("keep_bset", "'keep_best'"), ("train.devise", "'train.device'"), ("adamww", "'adamw'")],
)
def test_an_unknown_name_suggests_keys_and_sections(cli, name, suggestion):
    code, printed = cli("describe", name)
    assert code == 2
    assert suggestion in printed
    assert len(printed.splitlines()) == 1


def test_a_path_in_the_config_imports_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("from pathlib import Path\nPath('RAN').touch()\n")
    assert cli("describe", "train.device")[0] == 0
    assert not Path("RAN").exists()


@pytest.mark.usefixtures("_registers")
def test_a_key_that_is_also_a_section_shows_both(cli):
    MODEL_REGISTRY.register("keep_best")(torch.nn.Identity)
    code, printed = cli("describe", "keep_best")
    assert code == 0
    assert printed.startswith("'keep_best' is the key of a component, and a part of the config:\n")
    assert "component keep_best: torch.nn" in printed
    assert "section train.keep_best: " in printed


@pytest.mark.usefixtures("_registers", "_forgets")
def test_a_class_at_a_path_through_a_components_name_is_shown_too(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/components.py").write_text("from torch import nn\n\n\nclass Head(nn.Module):\n    '''A head.'''\n")
    printed = cli("describe", "model.components.Head")[1]
    assert "component model.components.Head: " in printed
    assert "section model.components.NAME: " in printed


@pytest.mark.usefixtures("_registers", "_forgets")
def test_the_keys_of_a_configs_plugins_are_listed_and_described(cli, tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text("plugins: [listed_parts]\ndata: {type: unfinished}\n")
    (tmp_path / "listed_parts.py").write_text(PARTS)
    assert "unknown key 'beside_layer'" in cli("describe", "beside_layer")[1]
    code, printed = cli("list", "--filter", "beside_*", "--config", config)
    assert code == 0
    assert re.findall(r"^  (\w+)", printed, re.MULTILINE) == ["beside_layer", "beside_data", "beside_loss"]
    code, printed = cli("describe", "beside_layer", "--config", config)
    assert code == 0
    assert "width: integer, default 3" in printed
    assert cli("describe", "listed_parts.Layer", "--config", config)[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugins: [not_there_at_all]", "plugins.0: not_there_at_all cannot be imported"),
        ("plugins: my_parts", "plugins: must be a list of modules: write [my_parts]"),
        ("- a list", "must hold a mapping"),
    ],
)
def test_a_config_without_usable_plugins_is_refused(cli, tmp_path, text, message):
    config = tmp_path / "own.yaml"
    config.write_text(text)
    for command in (["list"], ["describe", "mlp"]):
        code, printed = cli(*command, "--config", config)
        assert code == 2
        assert message in printed
        assert len(printed.splitlines()) == 1


def test_plugins_of_a_config_are_refused_under_no_plugins(cli, tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text("plugins: [listed_parts]")
    (tmp_path / "listed_parts.py").write_text("raise AssertionError")
    code, printed = cli("list", "--config", config, "--no-plugins")
    assert code == 2
    assert "not imported: listed_parts" in printed


@pytest.mark.parametrize("name", ["train", "model", "init_from", "schedule_free_radam"])
@pytest.mark.parametrize("columns", [80, 120])
def test_a_description_fits_the_terminal(cli, monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = cli("describe", name)[1].splitlines()
    assert max(map(len, lines)) <= columns or max(len(word) for line in lines for word in line.split()) > columns / 2
    assert max(map(len, lines)) > columns - 20


def test_a_very_narrow_terminal_gets_a_description_too(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "3")
    assert cli("describe", "train")[0] == 0


def test_examples_and_lists_in_a_docstring_keep_their_lines():
    text = "A curve.\n\nArgs:\n    peak: The highest value, which is a number.\n\n>>> 1\n1"
    assert wrapped(text, 30, 2) == [
        "  A curve.",
        "",
        "  Args:",
        "      peak: The highest value,",
        "        which is a number.",
        "",
        "  >>> 1",
        "  1",
    ]
    assert wrapped("one two three four `five six` seven", 26, 0) == ["one two three four", "`five six` seven"]


def test_the_mark_of_a_field_is_shown(cli, monkeypatch):
    class Mark(Enum):
        FIXED = "fixed in a run"

    monkeypatch.setattr(ExperimentConfig.model_fields["seed"], "metadata", [Mark.FIXED])
    assert "field seed: integer (>= 0), default 0; fixed in a run\n" in cli("describe", "seed")[1]


@pytest.mark.parametrize("key", ["adam", "adamw", "adamw_warmup_cosine_decay", "sgd", "lbfgs", "schedule_free_radam"])
def test_a_refused_option_is_not_listed_as_a_parameter(cli, key):
    printed = cli("describe", key)[1]
    parameters, _, refused = printed.partition("  refused:")
    assert ("state_dtype" in refused) == (not key.startswith("adam"))
    assert ("use_cautious_optimizer" in refused) == (key in ("lbfgs", "schedule_free_radam"))
    for option in ("state_dtype", "use_cautious_optimizer"):
        assert (f"    {option}: " in parameters) == (option not in refused)


def test_a_factory_that_cannot_be_tried_refuses_nothing():
    cls = OPTIMIZER_BUILDER_REGISTRY["schedule_free_radam"]

    class Broken(cls):
        def build(self, params, horizon=None):
            raise refusal("needs two modules")

    assert refused_options(cls)
    assert refused_options(Broken) == {}


def test_list_points_to_the_config(cli):
    assert "innerstep describe config" in cli("list")[1]
    assert "describe config" not in cli("list", "--filter", "adam*")[1]


def test_the_version_is_printed(cli):
    assert cli("--version") == (0, f"innerstep {innerstep_version()}\n")


def test_names_hold_paths_and_their_last_parts():
    assert {"train", "train.keep_best", "keep_best", "batch_size", "components"} <= set(names())
