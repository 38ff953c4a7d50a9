"""Configs of several files: which value wins, and which are dropped or refused."""

import json

import pytest

from trainer import ConfigError
from trainer.config.composition import CHAIN, FILES, compose

BASE = """\
x-lr: &lr 0.5
data: {type: digits, batch_size: 128}
model:
  component_optims:
    head: {type: adamw, every: 2, params: {lr: *lr, betas: [0.8, 0.9]}}
train: {total_steps: 20, log: [jsonl]}
"""


@pytest.fixture
def write(tmp_path):
    def write_all(**texts):
        for name, text in texts.items():
            path = tmp_path / name.replace("__", "/").replace("_yaml", ".yaml").replace("_json", ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write_all


def composed(*files):
    return compose(list(files))


def test_a_file_wins_over_the_file_it_extends_key_by_key(write):
    folder = write(base_yaml=BASE, sub__c_yaml="extends: ../base.yaml\ndata: {batch_size: 7}\ntrain: {log: [a, b]}\n")
    values = composed(folder / "sub/c.yaml").values
    assert values["data"] == {"type": "digits", "batch_size": 7}
    assert values["train"] == {"total_steps": 20, "log": ["a", "b"]}
    assert "extends" not in values


def test_later_files_of_a_list_and_of_the_command_line_win(write):
    folder = write(
        one_yaml="a: {x: 1, y: 1, z: 1, u: 1}",
        two_json=json.dumps({"a": {"y": 2, "z": 2, "u": 2}}),
        c_yaml="extends: [one.yaml, two.json]\na: {z: 3, u: 3}",
        d_yaml="a: {u: null}",
    )
    assert composed(folder / "c.yaml", folder / "d.yaml").values == {"a": {"x": 1, "y": 2, "z": 3, "u": None}}


def test_a_value_keeps_the_place_of_the_file_that_gives_it(write):
    folder = write(base_yaml=BASE, c_yaml="extends: base.yaml\ntrain:\n  log: [x, jsonl]\n")
    places = composed(folder / "c.yaml").places
    assert str(places["train", "log", "1"]) == f"{folder / 'c.yaml'}:3:12"
    assert str(places["train", "total_steps"]) == f"{folder / 'base.yaml'}:6:9"


def test_another_type_drops_the_parameters_of_the_earlier_one_with_one_notice(write):
    more = "extends: base.yaml\nmodel: {component_optims: {head: {type: sgd, params: {momentum: 0.9}}}}\n"
    folder = write(base_yaml=BASE, c_yaml=more, d_yaml="model: {component_optims: {head: {params: {lr: 1}}}}")
    found = composed(folder / "c.yaml", folder / "d.yaml")
    entry = found.values["model"]["component_optims"]["head"]
    assert entry == {"type": "sgd", "every": 2, "params": {"momentum": 0.9, "lr": 1}}
    (note,) = found.notes
    assert note.startswith(f"{folder / 'c.yaml'}:2:")
    assert "model.component_optims.head.type: sgd replaces adamw of" in note


def test_another_type_of_a_schedule_drops_the_fields_beside_it(write):
    entry = "model: {component_optims: {head: {params: {lr: 1, schedule: %s}}}}"
    folder = write(a_yaml=entry % "{type: linear, end: 0}", b_yaml=entry % "{type: cosine, cycles: 2}")
    found = composed(folder / "a.yaml", folder / "b.yaml")
    params = found.values["model"]["component_optims"]["head"]["params"]
    assert params == {"lr": 1, "schedule": {"type": "cosine", "cycles": 2}}


def test_the_same_type_again_drops_nothing(write):
    folder = write(base_yaml=BASE, c_yaml="extends: base.yaml\nmodel: {component_optims: {head: {type: adamw}}}\n")
    found = composed(folder / "c.yaml")
    assert found.values["model"]["component_optims"]["head"]["params"] == {"lr": 0.5, "betas": [0.8, 0.9]}
    assert found.notes == ()


def test_a_file_may_be_extended_on_two_ways(write):
    folder = write(base_yaml="a: 1", l_yaml="extends: base.yaml", r_yaml="extends: base.yaml\nb: 2", c_yaml="c: 3")
    (folder / "c.yaml").write_text("extends: [l.yaml, r.yaml]\nc: 3")
    assert composed(folder / "c.yaml").values == {"a": 1, "b": 2, "c": 3}


REFUSED = {
    "a circle": (
        {"c_yaml": "a: 1\nextends: d.yaml", "d_yaml": "extends: [e.yaml, c.yaml]", "e_yaml": "a: 1"},
        "d.yaml:1:19: extends.1: the files extend each other in a circle: ",
    ),
    "itself": ({"c_yaml": "extends: c.yaml"}, "c.yaml:1:1: extends: the files extend each other in a circle"),
    "a missing file": ({"c_yaml": "a: 1\nextends: bsae.yaml", "base_yaml": "a: 1"}, "c.yaml:2:1: extends: there is no"),
    "a near name": ({"c_yaml": "extends: bsae.yaml", "base_yaml": "a: 1"}, "did you mean 'base.yaml'"),
    "a folder": ({"c_yaml": "extends: sub", "sub__a_yaml": "a: 1"}, "extends: must be a file, and"),
    "a number": (
        {"c_yaml": "extends: 3"},
        "c.yaml:1:1: extends: must be the path of a file, or a list of paths; got 3",
    ),
    "null": ({"c_yaml": "extends:"}, "extends: must be the path of a file"),
    "a mapping": ({"c_yaml": "extends: {a: b}"}, "extends: must be the path of a file"),
    "the hub": ({"c_yaml": "extends: hf://a/b"}, "extends: must be a file on this machine; got hf://a/b"),
    "a broken file": ({"c_yaml": "extends: base.yaml", "base_yaml": "a: ["}, "base.yaml:"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_extended_is_named_with_the_line_that_names_it(case, write):
    files, message = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        composed(write(**files) / "c.yaml")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_circle_is_shown_as_a_chain_with_lines(write):
    folder = write(c_yaml="a: 1\nextends: d.yaml", d_yaml="extends: c.yaml")
    with pytest.raises(ConfigError) as error:
        composed(folder / "c.yaml")
    chain = f"{folder / 'c.yaml'}:2:1 extends {folder / 'd.yaml'}, {folder / 'd.yaml'}:1:1 extends {folder / 'c.yaml'}"
    assert str(error.value).endswith(chain)


def test_the_number_of_files_is_bounded(write):
    chain = {f"f{number}_yaml": f"extends: f{number + 1}.yaml" for number in range(CHAIN + 1)}
    folder = write(**chain, **{f"f{CHAIN + 1}_yaml": "a: 1"})
    with pytest.raises(ConfigError, match=f"more than {CHAIN} files extend each other"):
        composed(folder / "f0.yaml")
    folder = write(g_yaml="a: 1", c_yaml=f"extends: [{', '.join(['g.yaml'] * (FILES + 1))}]")
    with pytest.raises(ConfigError, match=f"at most {FILES} files"):
        composed(folder / "c.yaml")


def test_a_mapping_extends_a_file_of_the_working_directory(write, monkeypatch):
    monkeypatch.chdir(write(base_yaml=BASE))
    assert composed({"extends": "base.yaml", "train": {"total_steps": 3}}).values["train"]["total_steps"] == 3
