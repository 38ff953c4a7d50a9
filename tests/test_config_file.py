import json

import pytest

from trainer import ConfigError
from trainer.config_file import read_config_file
from trainer.overrides import apply_overrides, parse_overrides


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "1.e-4", "0.1e-3", "+1e-4", "1e-04"])
def test_every_spelling_of_a_small_number_is_a_number(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"lr: {text}\nname: '{text}'\nkept: e-4\nsteps: 600\nfactor: -1e3\n")
    config = read_config_file(path)
    assert config == {"lr": 1e-4, "name": text, "kept": "e-4", "steps": 600, "factor": -1000.0}
    assert isinstance(config["lr"], float)


def test_json_is_read_too(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"lr": 1e-4, "betas": [0.9, 0.999]}))
    assert read_config_file(path) == {"lr": 1e-4, "betas": [0.9, 0.999]}


def test_overrides_are_yaml_values():
    arguments = ["--a.b=1e-4", "--c", "[1, 2]", "--d=(0.9,0.999)", "--e", "True", "--f=", "--g=x=y", "--h", "-1"]
    expected = {"a": {"b": 1e-4}, "c": [1, 2], "d": [0.9, 0.999], "e": True, "f": None, "g": "x=y", "h": -1}
    assert apply_overrides({}, parse_overrides(arguments)) == expected


def test_overrides_reach_new_and_old_places_and_leave_the_source_alone():
    config = {"a": {"b": 1}, "n": None}
    assert apply_overrides(config, {"a.c.d": 2, "n.x": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "n": {"x": 3}}
    assert config == {"a": {"b": 1}, "n": None}
    with pytest.raises(ConfigError, match=r"--a.b.c: a.b is 1, which has no fields"):
        apply_overrides(config, {"a.b.c": 2})
