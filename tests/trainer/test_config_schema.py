"""The JSON Schema of `innerstep schema`, as the validator of another package reads it."""

import json
import re

import pytest
from broken_configs import BROKEN, GOOD
from broken_values import VALUES
from conftest import ROOT, needs
from sample_files import _forgets, _registers  # noqa: F401  # fixtures

from optimizer import SCHEDULE_REGISTRY
from trainer.config.schema import ComponentConfig, DataConfig, EvaluationConfig, ObjectiveConfig, OptimConfig
from trainer.config.yaml_file import read_config_file
from trainer.interfaces.metrics_sink import SINK_REGISTRY
from trainer.reporting.config_schema import config_schema, schema_text, write_schema

pytestmark = needs("jsonschema")

REGISTRIES = [
    SCHEDULE_REGISTRY,
    *(section.registry for section in (OptimConfig, ComponentConfig, DataConfig, ObjectiveConfig, EvaluationConfig)),
]
CONFIGS = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "examples").glob("*/*.yaml")]
ELSEWHERE = {
    *(
        "a stranger beside a mistake",
        "misspelt name of an optimizer",
        "a word for true as a name",
        "a name of nn.ModuleDict",
        "unknown sink",
    ),
    *("large seed", "infinite lr", "unknown plugin", "file as a plugin", "unknown device", "variable as a device"),
    *("empty run_dir", "unset variable in run_dir", "a file name that is too long", "no jsonl", "nothing to load"),
}
"""Mistakes that no schema of one value finds: names in other places, modules, files, and the machine."""


def validator(schema):
    from jsonschema import Draft7Validator

    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


@pytest.fixture(scope="module")
def written():
    import sample_traces  # noqa: F401  # registers the data set of the good config

    return config_schema()


@pytest.fixture(scope="module")
def mistakes(written):
    """Return a function from a text of YAML, or values, to (path, message) of each mistake."""
    validate = validator(written)

    def find(values):
        return [(".".join(map(str, error.absolute_path)), error.message) for error in validate.iter_errors(values)]

    return find


@pytest.fixture
def read(tmp_path):
    def from_text(text, suffix=".yaml"):
        file = tmp_path / f"c{suffix}"
        file.write_text(text)
        return read_config_file(file)

    return from_text


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
@pytest.mark.usefixtures("_forgets", "_registers")
def test_every_config_of_the_repository_is_accepted(file):
    schema = json.loads(schema_text([file]))
    assert [error.message for error in validator(schema).iter_errors(read_config_file(file))] == []


def test_it_is_small_and_has_no_reference_to_nothing(written):
    text = json.dumps(written, indent=1)
    assert len(text) < 1_000_000
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', text)):
        place = written
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.name)
def test_every_key_and_alias_has_its_branch(registry, written):
    definitions = written["$defs"]
    holders = {SCHEDULE_REGISTRY.name: "schedule"} | {
        section.registry.name: section.__name__
        for section in (OptimConfig, ComponentConfig, DataConfig, ObjectiveConfig, EvaluationConfig)
    }
    rules = [
        rule for rule in definitions[holders[registry.name]]["allOf"] if "type" in rule["if"].get("properties", {})
    ]
    for key in registry:
        for name in (key, *registry.aliases_of(key), key.upper()):
            fitting = [r["then"] for r in rules if re.search(r["if"]["properties"]["type"]["pattern"], name)]
            target = fitting[0].get("properties", {}).get("params", fitting[0])["$ref"]
            assert len(fitting) == 1
            assert target == f"#/$defs/{re.sub('[^a-zA-Z0-9_.-]', '_', f'{registry.name}.{key}')}"


def test_sinks_are_listed(written):
    log = field_of(written, "TrainConfig", "log")
    assert set(SINK_REGISTRY) <= set(log["items"]["anyOf"][0]["enum"])


def field_of(schema, definition, name):
    """Return the schema of a field, which stands beside the definition if others have it too."""
    field = schema["$defs"][definition]["properties"][name]
    return schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def test_a_good_config_is_accepted(mistakes, read):
    assert mistakes(read(GOOD)) == []


READABLE = [row for row in (*BROKEN, *VALUES) if row.path and row.name not in ELSEWHERE]


def test_the_table_has_enough_rows():
    assert len(READABLE) > 100
    assert {row.name for row in (*BROKEN, *VALUES)} >= ELSEWHERE


@pytest.mark.parametrize("row", READABLE, ids=lambda row: row.name)
def test_a_broken_config_is_rejected_at_its_place(row, mistakes, read):
    found = mistakes(read(row.text, row.suffix))
    parent, _, name = row.path.rpartition(".")
    # A name that should not be there, or is missing, is a mistake of the mapping around it.
    outer = [path for path, message in found if path.endswith(parent) and f"'{name}'" in message]
    inner = [path for path, _ in found if row.path in path]
    unknown = [path for path, message in found if f"'{row.path.partition('.')[0]}'" in message]
    assert outer or inner or unknown, found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.total_steps", "${oc.env:STEPS,10}"),
        ("train.total_steps", "1_000"),
        ("train.total_steps", 10.0),
        ("train.run_dir", 20261125),
        ("train.compile", "${x.compile}"),
        ("train", "${x-train}"),
        ("train.precision", "${x.precision}"),
        ("train.ema", None),
        ("train.ema", {}),
        ("train.keep_best", {}),
        ("data.type", "TRACED"),
        ("data.type", "my_parts.Data"),
        ("model.components.first.freeze", ["layers.*"]),
        ("model.components.first.init_from", "runs/x:first"),
        ("model.components.first.init_from", {"path": "runs/x"}),
        ("model.components.average", {"ema_of": "first", "tau": 0.1}),
        ("model.components.other", {"type": "lerobot.act", "params": {"anything": 1}}),
        ("model.component_optims.first", {"type": "preset"}),
        ("model.component_optims.first", {"type": "preset", "params": {"lr": 1}}),
        ("model.component_optims.first", {"type": "torch.optim.SGD", "params": {"lr": 1}}),
        ("model.component_optims.head.params.lr", "1e-3"),
        ("model.component_optims.head.params.betas", "(0.9, 0.999)"),
        ("model.component_optims.head.params.betas", ["0.9", 0.999]),
        ("model.component_optims.head.params.no_decay", ["*.bias"]),
        ("model.component_optims.head.params.param_groups", [{"match": "a.*", "weight_decay": 0}]),
        ("model.component_optims.head.params.param_groups", [{"match": ["a.*"], "lr": 1e-3}]),
        ("model.component_optims.head.params.option_schedules", {"weight_decay": {"type": "Linear"}}),
        ("model.component_optims.head.params.schedule.num_warmup_steps", "10%"),
        ("model.component_optims.head.params.schedule.num_warmup_steps", "5ep"),
        ("model.component_optims.head.params.schedule", {"type": "my_parts.Curve", "anything": 1}),
        ("model.component_optims.first", {"type": "muon", "params": {"fallback": {"type": "adamw", "lr": 1}}}),
    ],
)
def test_what_the_loader_takes_is_accepted(path, value, mistakes, read):
    values = read(GOOD)
    set_at(values, path, value)
    assert mistakes(values) == []


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("train.precision", "fp8", "train.precision"),
        ("train.evaluation", {"type": "gym"}, "train.evaluation"),
        ("model.components.1st", {"type": "mlp"}, "model.components"),
        ("model.component_optims.head.params.option_schedules", {"lr": {"type": "Lineer"}}, "lr.type"),
        (
            "model.component_optims.first",
            {"type": "muon", "params": {"fallback": {"type": "adamw", "le": 1}}},
            "fallback",
        ),
        (
            "model.component_optims.first",
            {"type": "muon", "params": {"fallback": {"type": "multi_adam"}}},
            "fallback.type",
        ),
        ("model.component_optims.head.params.schedule", {"type": "sequence"}, "params.schedule"),
        ("train.log", ["jsonl", "jsnol"], "train.log.1"),
    ],
)
def test_what_the_loader_refuses_is_rejected(path, value, place, mistakes, read):
    values = read(GOOD)
    set_at(values, path, value)
    assert [found for found, _ in mistakes(values) if found.endswith(place)]


def set_at(values, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


def test_a_file_that_extends_another_may_leave_anything_out(mistakes):
    assert mistakes({"extends": "base.yaml", "train": {"device": "cpu"}, "x-own": [1]}) == []
    assert mistakes({"extends": ["a.yaml"], "model": {"components": {"head": {"params": {"dim": 2}}}}}) == []
    assert mistakes({"extends": "base.yaml", "train": {"devise": "cpu"}})[0][0] == "train"
    optims = {"head": {"type": "adamw", "params": {"lr": "fast"}}}
    assert mistakes({"extends": "b.yaml", "model": {"component_optims": optims}})[0][0].endswith("head.params.lr")


def test_one_length_and_an_objective_are_needed_unless_there_is_a_policy(mistakes, read):
    values = read(GOOD)
    values["train"]["epochs"] = 2
    assert [path for path, _ in mistakes(values)] == ["train.total_steps"]
    values["train"]["total_steps"] = None
    assert mistakes(values) == []
    del values["train"]["objective"]
    assert "'objective' is a required property" in mistakes(values)[0][1]
    values["model"]["policy"] = {"type": "mlp"}
    assert mistakes(values) == []


@pytest.mark.usefixtures("_forgets", "_registers")
def test_plugins_and_dotted_paths_of_a_config_are_in_its_schema(tmp_path):
    (tmp_path / "own_parts.py").write_text(
        "from torch import nn\n"
        "from optimizer import SCHEDULE_REGISTRY, Schedule\n"
        "@SCHEDULE_REGISTRY.register('own_curve')\n"
        "class OwnCurve(Schedule):\n"
        "    '''Half the lr.'''\n"
        "    absolute = False\n"
        "    share: float = 0.5\n"
        "    '''What is left.'''\n"
        "    def lr_at(self, update):\n"
        "        return self.share\n"
        "class OwnHead(nn.Linear):\n"
        "    def __init__(self, width: int, anything: object = None, odd: nn.Module = None) -> None:\n"
        "        super().__init__(width, 1)\n"
    )
    config = tmp_path / "c.yaml"
    config.write_text("plugins: [own_parts]\nmodel: {components: {head: {type: own_parts.OwnHead}}}\n")
    write_schema(tmp_path / "s.json", [config])
    schema = json.loads((tmp_path / "s.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["$defs"]["schedule.own_curve"]["description"] == "Half the lr."
    assert field_of(schema, "schedule.own_curve", "share")["description"] == "What is left."
    head = {"extends": "x", "model": {"components": {"head": {"type": "own_parts.OwnHead", "params": {"widht": 1}}}}}
    assert [list(error.absolute_path)[-1] for error in validator(schema).iter_errors(head)] == ["params"]


def test_the_command_prints_it_or_writes_it(cli, tmp_path, written):
    code, printed = cli("schema")
    assert code == 0
    assert json.loads(printed).keys() == written.keys()
    out = tmp_path / "config.schema.json"
    code, printed = cli("schema", "--out", out)
    assert (code, printed.strip()) == (0, f"wrote {out}")
    assert json.loads(out.read_text()).keys() == written.keys()
    assert cli("schema", tmp_path / "none.yaml")[0] == 2
