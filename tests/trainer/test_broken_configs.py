"""Broken configs and command lines: each is refused in one screen with its place, its path and a remedy."""

import textwrap

import pytest
from broken_configs import BROKEN, GOOD
from sample_traces import TRACE

SCREEN = 24
"""Lines of 80 columns."""


@pytest.fixture
def refuse(cli, tmp_path, monkeypatch):
    """Run a command in an empty folder; return what it prints after a check that it is refused as it should be."""
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


def test_every_row_has_a_name_of_its_own():
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
