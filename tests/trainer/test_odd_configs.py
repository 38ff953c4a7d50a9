"""Odd configs and command lines of strangers: refused in plain words at their place, or understood."""

import pytest
from broken_configs import BATCH, GOOD, SEED, STEPS, after, at


@pytest.fixture
def plan(cli, tmp_path, monkeypatch):
    """Return a function that plans a config's text with arguments, and returns the exit code and what is printed."""
    monkeypatch.chdir(tmp_path)

    def run(text, *arguments):
        (tmp_path / "c.yaml").write_text(text)
        return cli("plan", "c.yaml", *arguments)

    return run


REFUSED = {
    "a key with a colon": ('"a: b": 1\n' + GOOD, "c.yaml:1:1: 'a: b': unknown name"),
    "a dotted key": ('"train.total_steps": 1\n' + GOOD, "c.yaml:1:1: 'train.total_steps': unknown name"),
    "an empty key": ('"": 1\n' + GOOD, "c.yaml:1:1: '': unknown name"),
    "a key with an escape": ('"a\\e[31m": 1\n' + GOOD, r"c.yaml:1:1: a\x1b[31m: unknown name"),
    "x- below the top": (
        after(BATCH, "  x-size: 3"),
        "c.yaml:7:3: data.x-size: has no place here; it stands at the top",
    ),
    "extends below the top": (after(STEPS, "  extends: b.yaml"), "train.extends: has no place here"),
    "a tab after a colon": (at((BATCH, "  batch_size:\t4")), "c.yaml:6:14: a tab; indent with spaces, and write one"),
    "an environment variable in a number": (
        at((SEED, "seed: ${SEED}")),
        "c.yaml:1:1: seed: ${SEED}: the config has no SEED; did you mean 'seed'?",
    ),
    "a long name to extend": (f"extends: {'a' * 5000}\n", "c.yaml:1:1: extends: there is no file aaa"),
    "a reference in extends": ("extends: ${oc.env:B}/b.yaml\n", "the files are read before ${…} is filled in"),
    "null to extend": (
        "extends:\n" + GOOD,
        "c.yaml:1:1: extends: must be the path of a file, or a list of paths; got null",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_config_is_refused_at_its_place(name, plan):
    text, message = REFUSED[name]
    code, printed = plan(text)
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed


COMMANDS = {
    "--train.": "--train.: a name is missing before, after or between the dots",
    "--.seed=3": "--.seed: a name is missing",
    "--train..total_steps=3": "--train..total_steps: a name is missing",
    "--plugins.00=x": "has no item 00 (0 to 0)",
    "--plugins.\u0660=x": "has no item \u0660 (0 to 0)",
    "--train+=3": "--train+: train is a mapping, and not a list",
    "--config_path=": "--config_path: no value",
    "--overwite": "--overwite: there is no such option in plan; --overwrite is one of train",
    "--x-q=3": "--x-q: the config has no x-q; did you mean 'x-s'?",
    "--train.device=${DEVICE}": "An environment variable is ${oc.env:DEVICE,default}",
}


@pytest.mark.parametrize("argument", COMMANDS)
def test_an_odd_argument_is_refused_with_its_flag(argument, plan):
    code, printed = plan("x-s: 4\n" + GOOD, argument)
    assert code == 2
    assert COMMANDS[argument] in printed


def test_a_section_for_references_can_be_overridden(plan):
    text = "x-steps: 4\n" + GOOD.replace("total_steps: 10", "total_steps: ${x-steps}")
    code, printed = plan(text, "--x-steps=7")
    assert code == 0, printed
    assert "7 updates" in printed


def test_extends_fills_in_environment_variables(plan, tmp_path, monkeypatch):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "b.yaml").write_text(GOOD)
    monkeypatch.setenv("BASES", "bases")
    code, printed = plan("extends: $BASES/b.yaml\ntrain: {total_steps: 7}\n")
    assert code == 0, printed
    assert "7 updates" in printed


def test_a_missing_file_of_a_near_name_is_found(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text(GOOD)
    code, printed = cli("plan", "digit.yaml")
    assert code == 2
    assert "digit.yaml: cannot be read: No such file or directory; did you mean 'digits.yaml'?" in printed


def test_resuming_a_config_names_its_run_from_here(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "c.yaml").write_text(GOOD)
    code, printed = cli("resume", "experiments/c.yaml")
    assert code == 2
    assert "experiments/runs/small" in printed
