"""Overrides before and after the config on the command line, and messages about misspelt options."""

import pytest
from conftest import DIGITS

STEPS = "600 updates"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train.total_steps=70", DIGITS],
        ["--train.total_steps", "70", DIGITS],
        [DIGITS, "--train.total_steps", "70"],
        ["--seed=3", "--train.total_steps", "70", DIGITS, "--train.log_every=5"],
    ],
)
def test_overrides_stand_before_and_after_the_config(cli, arguments):
    code, printed = cli("plan", *arguments)
    assert code == 0, printed
    assert "70 updates of" in printed


def test_an_option_of_the_command_keeps_its_value(cli, tmp_path):
    code, printed = cli("plot", "--out", tmp_path / "a.png", "--num_warmup_steps", "5", "linear", "--total_steps=20")
    assert code == 0, printed
    assert (tmp_path / "a.png").exists()


MISSPELT = {
    ("train", "--overwite", DIGITS): "--overwite: there is no such option; did you mean --overwrite?",
    ("train", DIGITS, "--over-write"): "--over-write: there is no such option; did you mean --overwrite?",
    ("plan", "--config", DIGITS): "--config: the config is an argument and not an option: innerstep plan CONFIG",
    ("train", f"--config_path={DIGITS}"): "--config_path: the config is an argument and not an option",
    ("plan", DIGITS, "train.total_steps=7"): "train.total_steps=7: not understood; an override is --dotted.key=value; "
    "did you mean --train.total_steps=7?",
    ("plan", DIGITS, "-train.total_steps=7"): "did you mean --train.total_steps=7?",
    ("plan", DIGITS, "other.yaml"): "other.yaml: not understood",
    ("plan", DIGITS, "--train.total_steps"): "--train.total_steps: no value; write --train.total_steps=VALUE",
    (
        "plan",
        DIGITS,
        "--epochs=3",
    ): "--epochs: there is no such option. Options: --allow-plugins, --help, --no-plugins;",
    ("plan", DIGITS, "--train.objective.params.wiring.0=x"): "which has no fields. Override the list as a whole",
}


@pytest.mark.parametrize("arguments", MISSPELT, ids=lambda arguments: str(arguments[-1])[-20:])
def test_a_misspelt_option_gets_its_remedy(cli, arguments):
    code, printed = cli(*arguments)
    assert code == 2
    assert MISSPELT[arguments] in printed
    assert len(printed.splitlines()) == 1


def test_help_shows_the_overrides(cli):
    code, printed = cli("plan", "--help")
    assert code == 0
    assert "--dotted.key=value" in printed
