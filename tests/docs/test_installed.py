"""The installed command, in a folder with nothing of innerstep's, does what the README shows."""

import os
import subprocess
import sys
import venv
from sysconfig import get_paths

import pytest
import yaml
from conftest import ROOT, needs
from sample_files import readme_example


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command of a fresh environment into which a wheel of this project was installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip, quiet = [sys.executable, "-m", "pip"], ["--quiet", "--disable-pip-version-check", "--no-deps"]
    # find_spec("pip") would switch off setuptools' distutils in this process, and with it torch.compile.
    if subprocess.run([*pip, "--version"], capture_output=True).returncode != 0:
        pytest.skip("needs pip")
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    )
    dependencies = [get_paths()["purelib"], *(path for path in sys.path if path.endswith("site-packages"))]
    with open(os.path.join(purelib.stdout.decode().strip(), "dependencies.pth"), "w") as file:
        file.write("\n".join(dict.fromkeys(dependencies)))
    subprocess.run([*pip, "--python", python, "install", *quiet, "--no-index", wheel], check=True)
    return folder / "venv" / "bin" / "innerstep"


@pytest.mark.slow
@needs("hatchling")
def test_the_readmes_plugin_works_with_the_installed_command(command, tmp_path):
    whole, added, source = readme_example()
    config, change = yaml.safe_load(whole), yaml.safe_load(added)
    config["plugins"] = change["plugins"]
    config["model"]["components"] |= change["model"]["components"]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (tmp_path / "my_parts.py").write_text(source)
    for name in ("trainer", "optimizer", "torch", "yaml", "random", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments, cwd=tmp_path):
        ran = subprocess.run(
            [command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
        )
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
        return ran.stdout

    assert "head" in run("plan", "small.yaml")
    assert "after 60 updates" in run("train", "small.yaml", "--train.total_steps=60")
    (tmp_path / "elsewhere").mkdir()
    resumed = run("resume", "../runs/small", cwd=tmp_path / "elsewhere")
    assert f"config.yaml imports my_parts ({tmp_path / 'my_parts.py'})" in resumed
