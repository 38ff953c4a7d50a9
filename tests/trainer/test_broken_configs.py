"""Broken configs and command lines: each is refused in one screen with its place, its path and a remedy."""

import textwrap

import pytest
from broken_commands import BROKEN_COMMANDS
from broken_configs import BROKEN as NAMES_AND_FORM
from broken_configs import GOOD
from broken_values import VALUES
from sample_traces import TRACE

from trainer import load_config
from trainer.config.overrides import parse_overrides

BROKEN = [*NAMES_AND_FORM, *VALUES]

SCREEN = 24
"""Lines of 80 columns."""


@pytest.fixture
def refuse(cli, tmp_path, monkeypatch):
    """Run a command in an empty folder; return its output after a check that it is refused as it should be."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        files = {path.name for path in tmp_path.iterdir()}
        code, printed = cli(*arguments)
        assert code == 2, printed
        assert "Traceback" not in printed
        assert "pydantic" not in printed.lower()
        assert "class '" not in printed
        lines = [part for line in printed.splitlines() for part in textwrap.wrap(line, 80) or [""]]
        assert len(lines) <= SCREEN, printed
        assert {path.name for path in tmp_path.iterdir()} == files, "something was written, or data were loaded"
        return printed

    return run


def test_the_good_config_is_accepted_and_loads_its_data(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(GOOD)
    code, printed = cli("plan", "c.yaml")
    assert code == 0, printed
    assert (tmp_path / TRACE).exists()


def test_the_rows_have_different_names():
    names = [row.name for row in BROKEN]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", BROKEN, ids=lambda row: row.name)
def test_a_broken_config_is_refused_at_its_place(row, refuse, tmp_path):
    file = f"c{row.suffix}"
    (tmp_path / file).write_text(row.text)
    printed = refuse("plan", file)
    begin = f"{file}:{row.position}: "
    line = next((line for line in printed.splitlines() if begin in line and row.says in line), None)
    assert line is not None, f"{begin}… {row.says}\n{printed}"
    assert row.path in line.partition(begin)[2].partition(": ")[0], printed


@pytest.mark.parametrize("row", BROKEN_COMMANDS, ids=lambda row: row.line)
def test_a_broken_command_line_is_refused_with_its_flag(row, refuse, tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD)
    printed = " ".join(refuse(*row.line.split(" ")).replace("│", " ").split())
    end = 0
    for words in row.says:
        begin = printed.find(words.strip(), end)
        assert begin >= 0, f"{words}\n{printed}"
        end = begin + len(words)


def test_there_are_150_of_them():
    assert len(BROKEN) + len(BROKEN_COMMANDS) >= 150


@pytest.mark.parametrize("name", ["42", "20261125_1200", "2026-11-25", "1e3", "0x1F", "1.50"])
def test_a_number_as_a_run_directory_keeps_its_spelling(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate((GOOD.replace("runs/small", name), GOOD.replace("runs/small", f"&name {name}"))):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert load_config(file).train.run_dir.name == name
    (tmp_path / "c.yaml").write_text(GOOD)
    assert load_config(tmp_path / "c.yaml", parse_overrides([f"--train.run_dir={name}"])).train.run_dir.name == name


def test_a_config_from_a_file_equals_the_same_values_without_places(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    config = load_config(file)
    assert config.places
    assert load_config(config.model_dump(mode="json")) == config
