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
    ("resume", "--config", DIGITS): "--config: resume takes RUN: innerstep resume RUN",
    ("plan", DIGITS, "--config_path"): "--config_path: no value; write --config_path=FILE",
    ("plan", DIGITS, "train.total_steps=7"): "train.total_steps=7: not understood; an override is --dotted.key=value; "
    "did you mean --train.total_steps=7?",
    ("plan", DIGITS, "-train.total_steps=7"): "did you mean --train.total_steps=7?",
    ("plan", DIGITS, "other.yaml"): "other.yaml: cannot be read: No such file or directory",
    ("plan", DIGITS, "+train.total_steps=7"): "did you mean --train.total_steps=7?",
    ("plan", "++train.total_steps=7", DIGITS): "did you mean --train.total_steps=7?",
    ("plan", DIGITS, "~train.eval_every"): "to unset a value, write --train.eval_every=null",
    ("resume", "runs/x", "train.total_steps=7"): "did you mean --train.total_steps=7?",
    ("plan", DIGITS, "--train.total_steps"): "--train.total_steps: no value; write --train.total_steps=VALUE",
    (
        "plan",
        DIGITS,
        "--epochs=3",
    ): "--epochs: there is no such option; did you mean --train.epochs?",
    ("plan", DIGITS, "--train.objective.params.wiring.4=x"): "--train.objective.params.wiring.4:"
    " train.objective.params.wiring is a list of 4 items, and has no item 4 (0 to 3). Add one with",
    ("plan", DIGITS, "--seed+=4"): "--seed+: seed is 0, and not a list. Set it with --seed=VALUE",
    ("plan", DIGITS, "--model.component_optims.haed.params.lr=1"): "there is no 'haed' in model.component_optims; did"
    " you mean 'head'?",
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
