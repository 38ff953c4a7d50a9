"""Names from files in messages: without control characters, uninterpreted, and of a limited length."""

import copy
import io
import json
import shutil
import sys

import faults
import pytest
import torch
from pydantic import Field, ValidationError
from rich.console import Console
from safetensors.torch import save_file

from optimizer.config.errors import explain
from optimizer.config.messages import bounded, counted, joined, listed, shown, shown_value, visible
from optimizer.config.validation import Config
from trainer import ConfigError, load_config, train
from trainer.runtime import terminal
from trainer.runtime.files import checksum, checksum_of

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\u2028\x9bA\r:smile:[red]"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\u202e\u2028\x9bA\r:smile:[red]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTILE, SHOWN),
        ("Gewicht_ä_重み_вес_é", "Gewicht_ä_重み_вес_é"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\udcff\x00\x7f\u200b\u2066\ufeff\U000e0041", r"\udcff\x00\x7f\u200b\u2066\ufeff\U000e0041"),
        ("e\u0301\u3000\xa0", "e\u0301\u3000\xa0"),
        ("x" * 200, "x" * 200),
        ("x" * 10_000_000, "x" * 200 + "… (10,000,000 characters)"),
    ],
    ids=["hostile", "letters", "lines", "invisible", "combined", "at the limit", "long"],
)
def test_a_name_is_one_line_of_visible_characters(text, expected):
    assert shown(text) == expected


def test_whole_text_keeps_its_lines():
    assert visible(f"one\n\t{HOSTILE}\n") == f"one\n\t{SHOWN}\n"


class Faulty:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "mlp", "a": [1, (2.5, None)]}, "{'type': 'mlp', 'a': [1, (2.5, None)]}"),
        ("\x1b'", r'''"\x1b'"'''),
        (list(range(1000)), str(list(range(20)))[:-1] + ", ...]"),
        (dict.fromkeys(range(1000)), "{" + ", ".join(f"{i}: None" for i in range(20)) + ", … 980 more}"),
        (1 << 20_000, "a whole number of 20,001 bits"),
        ("x" * 1000, f"'{'x' * 200}'… (1,000 characters)"),
    ],
    ids=["nested", "hostile", "list", "dict", "number", "text"],
)
def test_a_value_is_shown_as_in_python_but_cut(value, expected):
    assert shown_value(value) == expected


def test_a_value_that_cannot_be_shown_is_named():
    assert "Faulty object at" in shown_value([Faulty()])


def test_lists_say_how_much_more_there_is():
    names = [str(number) for number in range(300_000)]
    assert listed(names, 3) == "0, 1, 2 and 299,997 more"
    assert joined(names).endswith("48; 49; and 299,950 more")


@pytest.mark.parametrize(("number", "text"), [(0, "0 updates"), (1, "1 update"), (2, "2 updates"), (21, "21 updates")])
def test_one_thing_is_no_plural(number, text):
    assert counted(number, "update") == text
    assert counted(number, "value", f"{number}.0") == text.replace(" update", ".0 value")


def test_a_message_keeps_its_beginning_and_its_remedy():
    lines = bounded("\n".join(["first", *map(str, range(300_000)), "remedy"])).split("\n")
    assert (len(lines), lines[0], lines[50], lines[-1]) == (61, "first", "… 299,942 more lines …", "remedy")
    text = bounded("first" + "x" * 10_000_000 + "remedy")
    assert (text.startswith("first"), text.endswith("remedy"), len(text) < 8100) == (True, True, True)
    assert bounded("short\n") == "short\n"


class Few(Config):
    steps: int = 0
    further: dict[str, int] = Field(default_factory=dict)


def test_a_config_of_many_mistakes_lists_the_first():
    with pytest.raises(ValidationError) as raised:
        Few.model_validate({f"step_{number}": 1 for number in range(20_000)})
    lines = explain(raised.value)
    assert lines[0] == "step_0: unknown name; did you mean 'steps'? Known: steps, further"
    assert (len(lines), lines[-1]) == (51, "19,950 more mistakes")


def test_a_key_and_a_value_without_end_are_cut():
    with pytest.raises(ValidationError) as raised:
        Few.model_validate({"x" * 10_000_000: 1, "further": {"a\nb": "y" * 10_000_000}})
    lines = explain(raised.value)
    assert max(map(len, lines)) < 600
    assert any(line.startswith(r"further.a\nb: must be a whole number") for line in lines)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(faults.config(run, total_steps=3, keep_best=None), console=Console(file=io.StringIO()))
    return run


def newest(run):
    return run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()


def rewritten(folder, edit):
    """Edit trainer.json and let the manifest agree."""
    path, manifest = folder / "trainer.json", json.loads((folder / "manifest.json").read_text())
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    manifest["files"]["trainer.json"] = {"size_bytes": path.stat().st_size, "xxh3_128": checksum(path)}
    manifest.pop("checksum")
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": checksum_of(manifest)}))


def test_hostile_names_in_a_checkpoint_are_shown_as_escapes(cli, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")

    def edit(values):
        values["config"]["model"]["component_optims"]["first"]["type"] = HOSTILE
        values["components"][HOSTILE] = "yes"

    rewritten(newest(run), edit)
    (newest(run) / HOSTILE.replace("\r", "\n")).write_text("foreign")
    for command in (["inspect", run], ["verify", run], ["diff", run, whole], ["inspect", tmp_path / HOSTILE]):
        _, printed = cli("checkpoint", *command)
        assert visible(printed) == printed, printed
        assert r"\x1b[2J\x1b]0;owned\x07" in printed
    assert cli("resume", run)[1].count("\x1b") == 0


def test_hostile_names_of_tensors_are_shown_as_escapes_in_any_number(cli, whole, tmp_path):
    save_file({HOSTILE: torch.zeros(1), "x" * 1_000_000: torch.zeros(1)}, tmp_path / "few.safetensors")
    save_file({f"t{number}": torch.zeros(1) for number in range(20_000)}, tmp_path / "many.safetensors")
    for name in ("few", "many"):
        config = faults.config(tmp_path / "run")
        config["model"]["components"]["first"] = {"type": "normed", "init_from": str(tmp_path / f"{name}.safetensors")}
        (tmp_path / "config.json").write_text(json.dumps(config))
        code, printed = cli("plan", tmp_path / "config.json")
        assert (code, len(printed) < 9000, visible(printed) == printed) == (2, True, True)
        assert (SHOWN if name == "few" else "more") in printed


def test_markup_and_emoji_codes_are_text(capsys):
    terminal.complain("[bold red]:smile: [/] \x1b[2J")
    terminal.report("[link=file:///etc/passwd]:x:[/link]")
    printed = capsys.readouterr()
    assert printed.err == "[bold red]:smile: [/] \\x1b[2J\n"
    assert printed.out == "[link=file:///etc/passwd]:x:[/link]\n"


def test_the_text_of_a_user_s_exception_is_shown_as_escapes(cli, tmp_path, monkeypatch):
    from trainer import offline_trainer

    def fail(*given):
        raise ConfigError(f"{HOSTILE}\n" * 100_000)

    monkeypatch.setattr(offline_trainer, "build_components", fail)
    (tmp_path / "config.json").write_text(json.dumps(faults.config(tmp_path / "run")))
    code, printed = cli("plan", tmp_path / "config.json")
    assert (code, len(printed) < 9000, "\x1b" in printed) == (2, True, False)


def test_a_config_with_hostile_keys_is_answered_in_one_screen(cli, tmp_path):
    config = copy.deepcopy(faults.config(tmp_path / "run"))
    config[HOSTILE] = config["train"]["a\nb"] = "x" * 400_000
    config["model"]["components"] |= {f"{HOSTILE}{number}": {} for number in range(10)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, printed = cli("plan", tmp_path / "config.json")
    assert (code, len(printed) < 9000, visible(printed) == printed) == (2, True, True)
    assert f"model.components.{SHOWN}0" in printed
    with pytest.raises(ConfigError) as raised:
        load_config(config)
    assert len(str(raised.value)) < 100_000


def test_everything_is_printed_in_one_place():
    """`print` is refused by the linter; these would go around the escapes and the streams that cannot fail."""
    from sources import SOURCES

    around = ("typer.echo", "typer.secho", "click.echo", "console.print(")
    texts = {name: path.read_text() for name, path in SOURCES.items()}
    places = {name: [word for word in around if word in text] for name, text in texts.items()}
    drawing = ("trainer.runtime.terminal", "trainer.reporting.plan_table", "trainer.reporting.run_summary")
    assert {name: words for name, words in places.items() if words} == {key: ["console.print("] for key in drawing}
    assert sys.modules["trainer.runtime.terminal"] is terminal
