"""Which values a config can hold: the same from YAML, JSON, the command line and Python."""

import datetime
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trainer import ConfigError
from trainer.config.overrides import Typed, apply_overrides
from trainer.config.plain_values import DEPTH, NODES, plain
from trainer.config.yaml_file import read_config_file
from trainer.config.yaml_values import read_yaml, write_yaml

WORDS = {
    "010x": "010x",
    "0o10": 8,
    "0x10": 16,
    "1:30": "1:30",
    "on": "on",
    "Off": "Off",
    "yes": "yes",
    "n": "n",
    "True": True,
    "1e-4": 1e-4,
    "1_000": 1000,
    "1_000.5": 1000.5,
    "1__0": "1__0",
    "2026-11-25": "2026-11-25",
    "2026-11-25 10:00:00": "2026-11-25 10:00:00",
    "=": "=",
    "<<": "<<",
    "~": None,
    "NULL": None,
    "-.inf": -math.inf,
    ".5": 0.5,
    "5.": 5.0,
    "-0": 0,
    "0b11": "0b11",
    "'7'": "7",
    "!!str 7": "7",
    "!!int '7'": 7,
    "!!float 7": 7.0,
    "! 7": "7",
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_yaml_means_what_the_core_schema_says(word):
    (value,) = read_yaml(f"- {word}\n")
    assert value == WORDS[word]
    assert type(value) is type(WORDS[word])


def test_keys_are_text_as_written():
    assert read_yaml("on: 1\nno: 2\n1: 3\n1e-3: 4\n~: 5\n2026-11-25: 6\n010: 7\n") == {
        "on": 1,
        "no": 2,
        "1": 3,
        "1e-3": 4,
        "~": 5,
        "2026-11-25": 6,
        "010": 7,
    }


def test_merge_keys_give_way_to_own_keys_and_to_earlier_mappings():
    text = "x: {base: &base {lr: 1, wd: 2}, mid: &mid {<<: *base, lr: 3}}\nc: {<<: *mid, wd: 4}\nd: {<<: [*mid, *base]}"
    read = read_yaml(text)
    assert read["c"] == {"lr": 3, "wd": 4}
    assert read["d"] == {"lr": 3, "wd": 2}
    assert read_yaml("'<<': {a: 1}\nb: '<<'") == {"<<": {"a": 1}, "b": "<<"}


def test_an_alias_is_a_copy():
    read = read_yaml("a: &a {x: 1}\nb: *a\n")
    read["a"]["x"] = 2
    assert read["b"] == {"x": 1}
    read = read_yaml("a: &a {x: [1]}\nb: {<<: *a}\n&key c: *key\n")
    read["a"]["x"].append(2)
    assert (read["b"], read["c"]) == ({"x": [1]}, "c")


BOMB = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}\n" for i in range(1, 60))
REFUSED = {
    "a bomb of aliases": (BOMB, "holds more than 100,000 values"),
    "a bomb of mappings": (MERGES, "more than"),
    "an alias inside its value": ("a: &x [1, *x]", ":1:11: the alias *x stands inside its own value"),
    "an alias merged into itself": ("a: &x {<<: *x}", "inside its own value"),
    "an alias of nothing": ("a: *x", "no &x comes before the alias *x"),
    "nested lists": ("a: " + "[" * 100_000, "nested more than 64 levels deep"),
    "nested mappings": ("a: " + "{a: " * 100_000, "nested more than 64 levels deep"),
    "nested blocks": ("\n".join(" " * depth + "a:" for depth in range(100)), "nested more than 64 levels deep"),
    "bytes": ("a: !!binary aGk=", "the tag !!binary is not allowed"),
    "a set": ("a: !!set {b, c}", "the tag !!set is not allowed"),
    "an ordered mapping": ("a: !!omap [b: 1]", "the tag !!omap is not allowed"),
    "a date": ("a: !!timestamp 2026-11-25", "the tag !!timestamp is not allowed"),
    "a tag of one's own": ("a: !include other.yaml", "the tag !include is not allowed"),
    "a wrong tag": ("a: !!int many", "many is not a !!int"),
    "a list as a key": ("? [a, b]\n: 1", "a key must be text"),
    "a mapping as a key": ("? {a: b}\n: 1", "a key must be text"),
    "a number as a key, by an alias": ("a: &n 1\n*n : 2", "a key must be text"),
    "a key twice": ("a: 1\nb: 2\na: 3", ":3:1: the key 'a' is given twice"),
    "a key twice, in quotes": ("a: 1\n'a': 3", "the key 'a' is given twice"),
    "a merge of text": ("<<: text", "<< must be followed by a mapping"),
    "a leading zero": ("a: 010", "a number with leading zeros, which YAML 1.1 takes as octal; got 010. Write 10"),
    "a large number": ("a: " + "7" * 5000, "a whole number of 5000 characters is too large"),
    "a large hexadecimal number": ("a: 0x" + "f" * 10_000, "a whole number of 10002 characters is too large"),
    "a number beyond floats": ("a: 1e400", "the number does not fit into a float; got 1e400"),
    "half a character": ('a: "\\ud800"', ":1:4: text must be Unicode that UTF-8 can hold; got '\\ud800'"),
    "half a character as a key": ('"\\ud800": 1', "text must be Unicode"),
    "a character beyond Unicode": ('a: "\\UFFFFFFFF"', ":1:1: "),
    "an alias nested too deeply": (
        "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a",
        "nested more than 64 levels",
    ),
    "two documents": ("a: 1\n---\nb: 1", "a second document begins"),
    "a comma in a number": ("{steps: 1,000}", "a comma ends a value inside {}, and 000 comes after one. Write 1_000"),
    "half a tuple": ("{betas: (0.9, 0.999)}", "a comma ends a value inside {} and []; got (0.9. Write a list"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_yaml_that_is_no_plain_value_is_refused_with_its_place(tmp_path, what):
    text, message = REFUSED[what]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config_file(path)
    assert str(error.value).startswith(f"{path}:")
    assert message in str(error.value)
    assert len(str(error.value)) < 500


JSON_REFUSED = {
    '{"a": {"b": 1, "b": 2}}': "the key 'b' is given twice",
    '{"a": ' + "[" * 200_000: "is nested",
    '{"a": ' + "[" * 70 + "]" * 70 + "}": "nested more than 64 levels deep",
    '{"a": ' + "9" * 10_000 + "}": "a whole number of 10000 characters is too large",
    '{"a": -1e999}': "does not fit into a float",
    '{"a": [' + "1," * NODES + "1]}": "holds more than 100,000 values",
    '{"a": "\\ud800"}': "text must be Unicode",
    '{"a": 1,}': ":1:9: a key in double quotes must stand here",
}


@pytest.mark.parametrize("text", JSON_REFUSED, ids=range(len(JSON_REFUSED)))
def test_json_has_the_same_bounds(tmp_path, text):
    path = tmp_path / "c.JSON"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config_file(path)
    assert JSON_REFUSED[text] in str(error.value)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_must_be_utf_8_of_a_sane_size(tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    text = '{"name": "Übung"}\r\n'
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_config_file(path) == {"name": "Übung"}
    for encoding, found in {"utf-16": "UTF-16", "utf-16-le": "UTF-16", "latin-1": "Latin-1"}.items():
        path.write_bytes(text.encode(encoding))
        with pytest.raises(ConfigError, match=f"is not UTF-8 .*it looks like {found}.*save it as UTF-8"):
            read_config_file(path)
    path.write_bytes(b"# " + b"x" * 1_000_000)
    with pytest.raises(ConfigError, match="must have at most 1,000,000 bytes"):
        read_config_file(path)


def test_values_of_python_become_plain():
    given = {
        "path": Path("a/b"),
        "int": np.int64(3),
        "float": np.float32(0.5),
        "bool": np.bool_(True),
        "text": np.str_("x"),
        "tensor": torch.tensor(2.5),
        "array": np.array(7),
        "tuple": (0.9, (1, 2)),
        "none": None,
    }
    read = plain(given)
    assert read == {
        "path": "a/b",
        "int": 3,
        "float": 0.5,
        "bool": True,
        "text": "x",
        "tensor": 2.5,
        "array": 7,
        "tuple": [0.9, [1, 2]],
        "none": None,
    }
    assert {type(value) for value in read.values()} == {str, int, float, bool, list, type(None)}


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        {1},
        b"x",
        datetime.date(2026, 11, 25),
        print,
        object(),
        np.zeros(3),
        np.datetime64("2026-11-25"),
        torch.zeros(2),
        torch.tensor(1j),
        torch.empty((), device="meta"),
        1j,
        {3: 4},
        2**5000,
        "\ud800",
        LOOP,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_of_python_are_refused_with_their_path(value):
    with pytest.raises(ConfigError, match=r"data\.params\.here"):
        apply_overrides({"data": {"params": {"here": value}}}, {})
    with pytest.raises(ConfigError, match=r"data\.params\.here"):
        apply_overrides({}, {"data.params.here": value})


@pytest.mark.parametrize("text", ["[" * 1000, "{a: [", "&a [*a]", "!!set {a}", "0x" + "f" * 9999, "010", "\udcff"])
def test_an_override_has_the_same_bounds(text):
    with pytest.raises(ConfigError, match=r"--data\.x: .* is not a YAML value: "):
        apply_overrides({}, {"data.x": Typed(text)})


def test_a_deep_override_is_refused():
    with pytest.raises(ConfigError, match="nested more than 64 levels deep"):
        apply_overrides({}, {".".join("a" * (DEPTH + 2)): 1})


TEXTS = st.one_of(
    st.text(), st.sampled_from([*WORDS, "", " ", "null", "0o7", "010", "(1", "(1, 2)", "a: b", "- a", "#"])
)
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**600), 2**600), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=10,
)


def identical(first, second):
    if isinstance(first, dict):
        same = isinstance(second, dict) and list(first) == list(second)
        return same and all(identical(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return isinstance(second, list) and len(first) == len(second) and all(map(identical, first, second))
    return type(first) is type(second) and first == second


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(TEXTS, TREES, max_size=4))
@example(
    {"a": "1e-4", "on": "on", "<<": "<<", "": "", "x" * 200: "y " * 200, "b": "\x85\u2028\ufeff\x1b", "c": "\r\n\t"}
)
@example({"a": "\n\n x\n  y\n", "b": " x ", "c": "'\"\\", "d": "%x", "e": "\U0001f600", "f": -0.0, "g": 1e22, "h": []})
def test_what_is_written_is_read_back(config):
    text = write_yaml(config)
    assert identical(read_yaml(text), config), text
    assert identical(json.loads(json.dumps(config)), config)


def test_the_configs_of_older_runs_are_read():
    for path in sorted((ROOT / "tests/golden").glob("*/config.yaml")):
        assert read_config_file(path)["train"]["total_steps"] > 0


def test_a_pipe_and_an_endless_file_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="is a named pipe; write the config to a file, or give it as /dev/stdin"):
        read_config_file(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="must have at most 1,000,000 bytes"):
        read_config_file(Path("/dev/zero"))


class Odd(os.PathLike):
    def __fspath__(self):
        raise KeyError("no path")

    def __repr__(self):
        raise KeyError("no words")


class Unspeakable:
    __repr__ = Odd.__repr__


@pytest.mark.parametrize("value", [Odd(), Unspeakable(), {Unspeakable(): 1}, {10**5000: 1}, {"\ud800": 1}, {3: 1}])
def test_a_value_that_cannot_even_be_shown_is_refused_with_its_path(value):
    with pytest.raises(ValueError, match=r"^data\.params\b") as refusal:
        plain({"data": {"params": value}})
    str(refusal.value).encode()


def test_a_number_in_quotes_is_a_key_whose_value_may_be_null():
    assert read_yaml('{"1": null, "2": {"3": }}') == {"1": None, "2": {"3": None}}
    with pytest.raises(ValueError, match="Write 1_000"):
        read_yaml("{steps: 1,000}")
