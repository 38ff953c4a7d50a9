"""Where each value of a config stands, and messages about text that is not well-formed."""

import json

import pytest

from trainer import ConfigError
from trainer.config.overrides import parse_overrides, places_with
from trainer.config.places import Place, place_of, with_places
from trainer.config.yaml_file import read_placed_file

YAML = """\
base: &base {lr: 1e-3, betas: [0.9, {deep: 2}]}
used:
  <<: *base
  again: *base
  run_dir: 20261125_1200
items:
  - one
  - name: two
"""
"""A config whose places are those below."""
IN_YAML = {
    (): "1:1",
    ("base",): "1:1",
    ("base", "betas", "0"): "1:32",
    ("base", "betas", "1", "deep"): "1:38",
    ("used", "lr"): "1:14",
    ("used", "again"): "4:3",
    ("used", "again", "betas", "0"): "1:32",
    ("used", "run_dir"): "5:3",
    ("items", "0"): "7:5",
    ("items", "1"): "8:5",
    ("items", "1", "name"): "8:5",
}


def test_each_key_and_item_in_yaml_has_its_place(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(YAML)
    values, places = read_placed_file(path)
    assert {key: str(places[key]).removeprefix(f"{path}:") for key in IN_YAML} == IN_YAML
    assert values["used"]["run_dir"] == 202611251200
    assert places["used", "run_dir"].written == "20261125_1200"
    assert places["items", "0"].written is None


def test_each_key_and_item_in_json_has_its_place(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"a": {"b": 1, "c": [1, {"d": [], "e": {}}, "x"]}, "f": -1500.0}, indent="\t"))
    _, places = read_placed_file(path)
    expected = {
        (): "1:1",
        ("a",): "2:2",
        ("a", "b"): "3:3",
        ("a", "c"): "4:3",
        ("a", "c", "0"): "5:4",
        ("a", "c", "1"): "6:4",
        ("a", "c", "1", "d"): "7:5",
        ("a", "c", "1", "e"): "8:5",
        ("a", "c", "2"): "10:4",
        ("f",): "13:2",
    }
    assert {key: str(place).removeprefix(f"{path}:") for key, place in places.items()} == expected
    assert places["f",].written == "-1500.0"


def test_a_value_that_is_missing_has_the_place_of_what_is_around_it(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a:\n  b: {c: 1}\n")
    _, places = read_placed_file(path)
    assert str(place_of(places, ("a", "b", "d", "e"))) == f"{path}:2:3"
    assert str(place_of(places, ("z",))) == f"{path}:1:1"


MALFORMED = {
    "seed:0\ndata: {type: digits}\n": "1:5: a space is missing after seed:",
    "a:\n\tb: 2": "2:1: a tab",
    "a: b: c": "1:5: a second colon",
    "a: 1\n  b: 2\n": "2:3: a key cannot stand here",
    "a: [1, 2\nb: 3": "2:2: a comma is missing, or ] at the end",
    "a: {b: ${seed}}": "1:9: a comma is missing, or } at the end of the list or mapping. In brackets, put ${...}",
    "a: 1\nb: 'x\nc: 2\n": "2:4: the quote that begins here is not closed",
    "a: [*.norm]": "1:6: text that begins with * or &",
    "a: @x": "1:4: a value cannot begin with @",
    "%a: 1": "1:1: text that begins with %",
    "a:\n  b: 1\n c: 2\n": "3:2: indented further",
    "a: - 1": "1:4: a list item or a key cannot begin here",
    "a: [1, 2]]": "1:10: does not fit what stands before it",
    'a: "\\q"': "1:6: no escape begins with this character",
    "a: |x\n": "1:5: after | or >",
    "a: \a": "1:4: the character U+0007",
    "a: b\nc\nd: e\n": "2:1: a key without a colon",
    "{a: 1}}": "1:7: stands after the end",
    "a: [,]": "1:5: a value is missing here",
}
"""The position and the beginning of the message by a text that is not YAML."""


@pytest.mark.parametrize("text", MALFORMED, ids=repr)
def test_a_malformed_text_is_refused_at_its_place_in_plain_words(text, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_placed_file(path)
    assert str(error.value).startswith(f"{path}:{MALFORMED[text]}"), error.value


MALFORMED_JSON = {
    '{"a": 1,}': "1:9: a key in double quotes",
    "{a: 1}": "1:2: a key in double quotes",
    '{"a" 1}': "1:6: a colon must stand",
    '{\n"a": 1 "b"}': "2:8: a comma is missing",
    '{"a": "x': "1:7: the quote that begins here",
    '{"a": 1, "a": 2}': "1:10: the key 'a' is given twice",
    '{"a": 1e999}': "1:7: the number does not fit",
    "{} x": "1:4: stands after the end",
}


@pytest.mark.parametrize("text", MALFORMED_JSON)
def test_a_malformed_json_is_refused_at_its_place(text, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_placed_file(path)
    assert str(error.value).startswith(f"{path}:{MALFORMED_JSON[text]}"), error.value


def test_an_option_in_an_error_names_its_field_once():
    places = places_with({("seed",): Place("c.yaml", 1, 1)}, parse_overrides(["--train.lr=x", "--plugins=[a]"]))
    lines = "train.lr: must be a number\nplugins.0: not found\nplugins: too few\nseed: odd\ntrain.lr.x: odd"
    assert with_places(lines, places, ["train"]).split("\n") == [
        "--train.lr: must be a number",
        "--plugins: plugins.0: not found",
        "--plugins: too few",
        "c.yaml:1:1: seed: odd",
        "--train.lr: train.lr.x: odd",
    ]
