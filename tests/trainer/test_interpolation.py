"""`${…}` in a config: keys of the config, environment variables, and what is refused."""

import subprocess
import sys

import pytest
from conftest import ROOT

from trainer import ConfigError
from trainer.config.interpolation import interpolate
from trainer.config.overrides import apply_overrides
from trainer.config.places import Place

CONFIG = {"train": {"total_steps": 70, "lr": 1e-4, "on": True, "none": None}, "list": [1, {"a": "x"}], "x-w": {"k": 2}}


def filled(value, **more):
    return interpolate({**CONFIG, "v": value, **more}, {}).values["v"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${train.total_steps}", 70),
        ("${train.lr}", 1e-4),
        ("${train.on}", True),
        ("${train.none}", None),
        ("${list}", [1, {"a": "x"}]),
        ("${list.1.a}", "x"),
        ("${list[0]}", 1),
        ("${x-w.k}", 2),
        ("run_${train.total_steps}_${list.0}", "run_70_1"),
        ({"a": "${.b}", "b": 3}, {"a": 3, "b": 3}),
        ({"a": "${..list}"}, {"a": [1, {"a": "x"}]}),
        ("${HOME}/x", "${HOME}/x"),
        ("$HOME/${train.total_steps}", "$HOME/70"),
        ("${HOME}/${train.total_steps}", "${HOME}/70"),
        ("$${train.total_steps}", "$${train.total_steps}"),
        ("$${train.total_steps}/${list.0}", "$${train.total_steps}/1"),
        (r"\${train.total_steps}", "${train.total_steps}"),
        ("a$b", "a$b"),
        ("???", "???"),
    ],
)
def test_an_interpolation_has_the_value_and_the_type_of_its_key(text, value):
    assert filled(text) == value
    assert type(filled(text)) is type(value)


def test_an_environment_variable_is_read_as_a_word_of_yaml(monkeypatch):
    monkeypatch.setenv("STEPS", "12")
    monkeypatch.setenv("DEVICE", "cuda:1")
    assert (filled("${oc.env:STEPS}"), filled("${oc.env:DEVICE,auto}"), filled("a${oc.env:STEPS}")) == (
        12,
        "cuda:1",
        "a12",
    )
    monkeypatch.delenv("DEVICE")
    assert filled("${oc.env:DEVICE,auto}") == "auto"
    assert filled("${oc.env:DEVICE,null}") is None
    assert filled("${oc.env:DEVICE,${train.total_steps}}") in (70, "70")


def test_the_content_of_a_variable_is_not_filled_in(monkeypatch):
    monkeypatch.setenv("TRICK", "${train.total_steps}")
    assert filled("${oc.env:TRICK}") == "${train.total_steps}"


REFUSED = {
    "${train.total_stesp}": "the config has no train.total_stesp; did you mean 'train.total_steps'",
    "${.nothing.b}": "the config has no nothing.b",
    "${list.7}": "the config has no list.7",
    "${v}": "the interpolations go in a circle: v → v",
    "${oc.env:NOT_SET_ANYWHERE}": "the environment variable NOT_SET_ANYWHERE is not set. Set it, or write",
    "${oc.create:{a: 1}}": "there is no resolver oc.create; only oc.env",
    "${oc.decode:x}": "there is no resolver oc.decode; only oc.env",
    "${eval:1}": "there is no resolver eval; only oc.env",
    "${${train.on}:1}": "there is no resolver",
    "${oc.env:A,'${eval:1}'}": "there is no resolver eval",
    "${train.${list.1.a}}": "a key inside ${} must be written out",
    "${train.total_steps": "is not understood: write ${a.b} for a key of the config",
    "${a b}": "is not understood",
}


@pytest.mark.parametrize("text", REFUSED)
def test_an_interpolation_that_cannot_be_filled_in_is_refused_with_its_place(text):
    places = {("v",): Place("c.yaml", 3, 1)}
    with pytest.raises(ConfigError) as error:
        interpolate({**CONFIG, "v": text}, places)
    assert str(error.value).startswith("c.yaml:3:1: v: ")
    assert REFUSED[text] in str(error.value)


def test_a_longer_circle_is_shown_as_a_chain():
    with pytest.raises(ConfigError, match=r"a circle: v\.a → w → v → v\.a"):
        interpolate({"v": {"a": "${w}"}, "w": "${v}"}, {})


@pytest.mark.parametrize("item", ["${a%d}${a%d}", ["${a%d}", "${a%d}"]])
def test_interpolations_that_double_each_other_are_bounded(item):
    def of(number):
        return [part % number for part in item] if isinstance(item, list) else item % (number, number)

    config = {"a0": "x" * 10, **{f"a{number + 1}": of(number) for number in range(60)}}
    with pytest.raises(ConfigError, match="stand for more than"):
        interpolate(config, {})


def test_a_chain_without_end_is_bounded():
    config = {f"a{number}": f"${{a{number + 1}}}" for number in range(5000)} | {"a5000": 1}
    with pytest.raises(ConfigError, match="interpolations and sections follow each other"):
        interpolate(config, {})


def test_an_override_changes_what_others_refer_to():
    config = apply_overrides({**CONFIG, "v": "${train.total_steps}"}, {"train.total_steps": 9})
    assert interpolate(config, {}).values["v"] == 9


def test_omegaconf_is_imported_for_a_config_with_interpolations_alone():
    script = (
        "import sys; from trainer.config.interpolation import interpolate;"
        "interpolate({'a': '${HOME}/$X', 'b': '$${c}'}, {}); sys.exit('omegaconf' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${....train.total_steps}", "4 dots lead out of the config; at most 1"),
        ("a ${names} b", "names is a list, which cannot stand inside text"),
        ("${oc.env:INNERSTEP_UNSET,${train}}", "train is a mapping, which cannot stand inside text"),
        ("a${via}", "via is a mapping, which cannot stand inside text"),
        ("${oc.env:}", "write ${oc.env:NAME}"),
        ("${oc.env:,3}", "write ${oc.env:NAME}"),
        ("${oc.env:A,}", "write ${oc.env:NAME}"),
        ("${oc.env:A,1,2}", "write ${oc.env:NAME}"),
    ],
)
def test_a_reference_that_says_nothing_is_refused_in_plain_words(text, message):
    config = {"train": {"total_steps": 3}, "names": ["n"], "via": "${train}", "v": text}
    with pytest.raises(ConfigError) as raised:
        interpolate(config, {})
    assert message in str(raised.value)
    assert "Error" not in str(raised.value)


@pytest.mark.parametrize("length", range(30, 120, 6))
def test_a_chain_of_references_is_followed_or_refused_but_never_fails(length):
    config = {f"a{number}": f"${{a{number + 1}}}" for number in range(length)} | {f"a{length}": 7}
    if length < 40:
        assert interpolate(config, {}).values["a0"] == 7
    else:
        with pytest.raises(ConfigError, match="follow each other"):
            interpolate(config, {})


def test_spaces_inside_a_reference_mean_nothing():
    assert interpolate({"a": 5, "v": "${ a }"}, {}).values["v"] == 5


def test_a_variable_is_read_as_an_override_is(monkeypatch):
    monkeypatch.setenv("INNERSTEP_LIST", "[0.8, 0.9]")
    monkeypatch.setenv("INNERSTEP_OCTAL", "010")
    assert interpolate({"v": "${oc.env:INNERSTEP_LIST}"}, {}).values["v"] == [0.8, 0.9]
    assert interpolate({"n": 4, "v": "${oc.env:INNERSTEP_UNSET,${n}}"}, {}).values["v"] == 4
    with pytest.raises(ConfigError, match="leading zeros"):
        interpolate({"v": "${oc.env:INNERSTEP_OCTAL}"}, {})
