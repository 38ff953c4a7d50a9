"""`innerstep` and `python -m innerstep` start beside files and distributions that have the names of its packages."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


def run(*command, cwd, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    ran = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("is_package", [False, True])
def test_a_file_called_like_a_package_of_innerstep_breaks_nothing(tmp_path, is_package):
    for name in ("trainer", "optimizer"):
        path = tmp_path / name / "__init__.py" if is_package else tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('the wrong file')")
    for search in (str(ROOT), f".{os.pathsep}{ROOT}"):
        code, printed = run("-m", "innerstep", "describe", "train", cwd=tmp_path, PYTHONPATH=search)
        assert code == 0, printed
        assert "total_steps" in printed


def test_another_distribution_that_overwrote_a_package_is_named_with_the_remedy(tmp_path):
    shutil.copy(ROOT / "innerstep.py", tmp_path)
    (tmp_path / "optimizer").symlink_to(ROOT / "optimizer")
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").write_text("version = '0.3'")
    info = tmp_path / "other_trainer-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-trainer\nVersion: 0.3\n")
    (info / "RECORD").write_text("trainer/__init__.py,,\nother_trainer-0.3.dist-info/METADATA,,\n")
    code, printed = run("innerstep.py", "--help", cwd=tmp_path, PYTHONPATH="")
    assert code == 2
    assert printed.startswith("error: innerstep cannot start")
    assert "other-trainer has a package of the same name" in printed
    assert "pip uninstall other-trainer" in printed
    assert "Traceback" not in printed


def test_a_damaged_installation_without_a_clash_shows_its_error(tmp_path):
    shutil.copy(ROOT / "innerstep.py", tmp_path)
    (tmp_path / "optimizer").symlink_to(ROOT / "optimizer")
    code, printed = run("-I", str(tmp_path / "innerstep.py"), "--help", cwd=tmp_path)
    assert code == 1
    assert "FileNotFoundError" in printed
