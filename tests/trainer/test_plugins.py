"""Plugins are found beside the config and from wherever a run is resumed; one that fails is shown by its own line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COMMAND, ROOT
from sample_files import PARTS, _forgets, forget, plugged, written  # noqa: F401  # a fixture

import trainer
from optimizer import Registry
from optimizer.config.importing import PluginWarning
from trainer.errors import ConfigError

pytestmark = pytest.mark.usefixtures("_forgets")


def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "elsewhere")


def shell(*arguments, cwd, **environment):
    """Run the command in a process of its own, which has only innerstep on PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([*map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_a_plugin_is_found_beside_the_config_and_helpers_in_the_working_directory(cli, tmp_path, monkeypatch):
    elsewhere(tmp_path, monkeypatch)
    Path("beside_helper.py").write_text("width = 5")
    source = f"import beside_helper\n{PARTS.replace('width: int = 3', 'width: int = beside_helper.width - 2')}"
    path = written(tmp_path / "configs", plugged(tmp_path / "run"), beside_parts=source)
    code, printed = cli("plan", path)
    assert (code, "net            12  yes" in printed) == (0, True), printed
    forget("beside_parts", "beside_helper")
    trainer.train(trainer.load_config(path))
    forget("beside_parts", "beside_helper")
    monkeypatch.chdir(tmp_path)
    assert cli("resume", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("moved", ["nothing", "the run", "the project", "the project and the run"])
def test_a_resume_finds_the_plugin_from_another_directory(cli, tmp_path, monkeypatch, moved):
    project, run = tmp_path / "project", tmp_path / "project" / "runs" / "a"
    path = written(project / "configs", plugged(run), beside_parts=PARTS)
    monkeypatch.chdir(project)
    assert cli("train", path)[0] == 0
    forget("beside_parts")
    parts = project / "configs"
    if moved == "the project":
        project, parts = project.rename(tmp_path / "later"), tmp_path / "later" / "configs"
        run = project / "runs" / "a"
    if moved in ("the run", "the project and the run"):
        run = run.rename(tmp_path / "archived")
    if moved == "the project and the run":
        parts = project.rename(tmp_path / "later") / "configs"
        monkeypatch.chdir(parts)  # the working directory is then what is left
    else:
        elsewhere(tmp_path, monkeypatch)
    heading = (run / "config.yaml").read_text().splitlines()[1]
    for total in (4, 5):  # the second resume reads what the first has written
        code, printed = cli("resume", run, f"--train.total_steps={total}")
        assert code == 0, printed
        assert f"config.yaml imports beside_parts ({parts / 'beside_parts.py'})" in printed
        forget("beside_parts")
    assert len((run / "config.yaml").read_text().splitlines()[1]) <= len(heading) + 100


def test_a_project_that_was_copied_uses_its_own_plugin(cli, tmp_path, monkeypatch):
    path = written(tmp_path / "old", plugged(tmp_path / "old" / "run"), beside_parts=PARTS)
    assert cli("train", path)[0] == 0
    forget("beside_parts")
    subprocess.run(["cp", "-r", tmp_path / "old", tmp_path / "new"], check=True)
    elsewhere(tmp_path, monkeypatch)
    assert str(tmp_path / "new" / "beside_parts.py") in cli("resume", tmp_path / "new" / "run")[1]


def test_a_config_that_needs_no_folder_changes_no_path(cli, tmp_path):
    before = [*sys.path]
    config = plugged(tmp_path / "run", plugins=["sample_parts"])  # which the tests have on their path
    config["data"], config["train"]["objective"] = {"type": "noise", "batch_size": 8}, {"type": "regression"}
    config["model"]["components"]["net"] = {"type": "normed"}
    assert cli("train", written(tmp_path, config))[0] == 0
    assert sys.path == before
    assert "looked for" not in (tmp_path / "run" / "config.yaml").read_text()


NAMES = ("trainer", "optimizer", "torch", "yaml", "random", "json", "numpy", "colorsys")


def test_files_named_like_python_packages_and_innerstep_break_nothing(tmp_path):
    wrong = dict.fromkeys(NAMES, "raise SystemExit('the wrong file')")
    written(tmp_path, plugged("run"), beside_parts=f"import colorsys\n{PARTS}", **wrong)
    ran = shell(COMMAND, "plan", "config.yaml", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.slow
def test_workers_find_the_plugin_too(tmp_path, method):
    path = written(tmp_path / "configs", plugged("run", workers=1), beside_parts=PARTS)
    start = f"import multiprocessing as m; m.set_start_method({method!r}); import trainer.cli.main as c; c.main()"
    ran = shell(sys.executable, "-c", start, "train", path, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_a_module_that_hides_the_one_beside_the_config_is_named(tmp_path):
    config = plugged(tmp_path / "run", plugins=["colorsys", "beside_parts"])
    with pytest.warns(PluginWarning, match=r"colorsys is imported from .*python.*, not from .*colorsys\.py"):
        trainer.load_config(written(tmp_path / "a", config, colorsys="1 / 0", beside_parts=PARTS))
    config["plugins"] = ["beside_parts"]
    with pytest.warns(PluginWarning, match=f"beside_parts is imported from {tmp_path}/a, not from {tmp_path}/b/"):
        trainer.load_config(written(tmp_path / "b", config, beside_parts=PARTS))


FAULTY = {
    "syntax": ("x = 1\ndef f(:\n", "SyntaxError: ", "{file}:2"),
    "indentation": ("if True:\nx = 1\n", "IndentationError: ", "{file}:2"),
    "null byte": ("x = 1\0", "SyntaxError: source code", ""),
    "exception": ("\n\nraise RuntimeError('no licence')\n", "RuntimeError: no licence", "{file}:3"),
    "missing dependency": ("\nimport not_there_either\n", "No module named 'not_there_either'", "{file}:2"),
    "exit": ("import sys\nsys.exit(3)\n", "SystemExit: 3", "{file}:2"),
    "no key": ("def f():\n    return {}['x']\n\n\nf()\n", "KeyError: 'x'", "{file}:2"),
    "in a library": ("import json\njson.loads('{')\n", "JSONDecodeError: ", "{file}:2"),
    "key taken": (
        "from trainer import MODEL_REGISTRY\nfrom torch import nn\n\n\n@MODEL_REGISTRY.register('mlp')\n"
        "class Other(nn.Module): ...\n",
        "ValueError: component key 'mlp' is taken",
        "{file}:5",
    ),
    "a value that innerstep refuses": (
        "from optimizer import Horizon\nHorizon(0)\n",
        "Horizon.total_steps must be at least 1",
        "{file}:2",
    ),
    "no exception": ("class Odd(BaseException): ...\nraise Odd('odd')\n", "Odd: odd", "{file}:2"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_plugin_that_fails_is_shown_by_its_own_line_alone(cli, tmp_path, fault):
    source, message, line = FAULTY[fault]
    config = plugged(tmp_path / "run", plugins=["beside_faulty"])
    config["model"]["components"]["other"] = {"type": "beside_faulty.Layer"}
    config["model"]["component_optims"]["other"] = {"type": "adamw", "params": {"schedule": {"type": "beside_curve"}}}
    code, printed = cli("train", written(tmp_path, config, beside_faulty=source))
    (error,) = printed.splitlines()
    assert code == 2
    assert ": plugins.0: beside_faulty cannot be imported: " in error
    assert message in error
    assert line.format(file=tmp_path / "beside_faulty.py") in error


@pytest.mark.parametrize(("package", "extra"), [("gymnasium", "sim"), ("lerobot.policies", "lerobot"), ("av", "robot")])
def test_a_plugin_without_an_optional_package_names_the_extra(cli, tmp_path, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package.partition(".")[0], None)
    path = written(tmp_path, plugged(tmp_path / "run"), beside_parts=f"import {package}\n{PARTS}")
    code, printed = cli("plan", path)
    assert code == 2
    assert "beside_parts.py:1" in printed
    assert f"pip install 'innerstep[{extra}]'" in printed


def test_a_line_in_a_module_that_the_plugin_imports_is_shown(cli, tmp_path):
    path = written(
        tmp_path,
        plugged(tmp_path / "run", ["beside_outer"]),
        beside_outer="import beside_inner",
        beside_inner="\n1 / 0",
    )
    assert f"ZeroDivisionError: division by zero ({tmp_path / 'beside_inner.py'}:2)" in cli("plan", path)[1]


def test_other_mistakes_are_reported_beside_a_plugin_that_fails(cli, tmp_path):
    config = plugged(tmp_path / "run", plugins=["beside_faulty"])
    config["train"]["total_step"] = 3
    config["model"]["component_optims"]["net"]["type"] = "another_one.Optimizer"
    _, printed = cli("plan", written(tmp_path, config, beside_faulty="1 / 0"))
    assert "plugins.0: beside_faulty cannot be imported" in printed
    assert "train.total_step: unknown name" in printed
    assert "component_optims.net.type: optimizer 'another_one.Optimizer': another_one cannot be imported" in printed
    assert "beside_layer" not in printed


def test_an_unknown_module_says_where_modules_are_looked_for_and_the_nearest_name(cli, tmp_path, monkeypatch):
    elsewhere(tmp_path, monkeypatch)
    (tmp_path / "configs" / "beside_package").mkdir(parents=True)
    (tmp_path / "configs" / "beside_package" / "__init__.py").touch()
    for name, meant in (("beside_partz", "'beside_parts'"), ("beside_packag", "'beside_package'")):
        path = written(tmp_path / "configs", plugged(tmp_path / "run", plugins=[name]), beside_parts=PARTS)
        code, printed = cli("plan", path)
        assert code == 2
        assert f"plugins.0: {name} cannot be imported: there is no module {name!r}; did you mean {meant}" in printed
        assert f"then in {tmp_path / 'configs'}, then in {tmp_path / 'elsewhere'}." in printed


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("beside_parts.py", "write beside_parts"),
        ("./beside_parts.py", "write beside_parts"),
        ("parts/beside_parts", "write parts.beside_parts"),
        ("parts\\beside_parts.py", "write parts.beside_parts"),
        (".beside_parts", "write beside_parts"),
        ("..", "write my_parts for my_parts.py"),
        ("beside..parts", "is not the name of a module"),
        ("", "is not the name of a module"),
        ("beside\0parts", "is not the name of a module"),
    ],
)
def test_what_is_not_a_modules_name_is_told_so(tmp_path, name, remedy):
    with pytest.raises(ConfigError, match=r"^plugins\.0: ") as refusal:
        trainer.load_config(plugged(tmp_path / "run", plugins=[name]))
    assert remedy in str(refusal.value)


def test_plugins_that_are_no_list_have_a_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"plugins: must be a list of modules: write \[beside_parts\]"):
        trainer.load_config({**plugged(tmp_path / "run"), "plugins": "beside_parts"})


@pytest.mark.parametrize("command", ["describe", "plot"])
def test_a_dotted_path_on_the_command_line_is_looked_for_in_the_working_directory(cli, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("beside_curve.py").write_text(
        "from optimizer import Schedule\n\n\nclass Steep(Schedule):\n    absolute = False\n\n"
        "    def lr_at(self, step):\n        return 0.5**step\n"
    )
    assert cli(command, "beside_curve.Steep")[0] == 0
    code, printed = cli(command, "beside_curv.Steep")
    assert code == 2
    assert "there is no module 'beside_curv'; did you mean 'beside_curve'" in printed
    assert "beside_curve has no Steeep; did you mean 'Steep'" in cli(command, "beside_curve.Steeep")[1]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path with an installed distribution of which one entry point of three is good."""
    folder = tmp_path / "site"
    (folder / "mixed-1.5.dist-info").mkdir(parents=True)
    (folder / "mixed-1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mixed\nVersion: 1.5\n")
    entries = (
        "[innerstep.tests]\nmissing = not_there_at_all:X\nodd = beside_installed:ODD\nright = beside_installed:A\n"
    )
    (folder / "mixed-1.5.dist-info" / "entry_points.txt").write_text(entries + "exits = beside_exits\n")
    (folder / "beside_installed.py").write_text("class A: ...\n\n\nODD = int\n")
    (folder / "beside_exits.py").write_text("raise SystemExit(5)\n")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_broken_entry_point_is_named_once_and_the_others_are_there(site):
    import beside_installed

    registry = Registry("thing", beside_installed.A, entry_points="innerstep.tests")
    with pytest.warns(PluginWarning) as warned:
        assert list(registry) == ["right"]
    said = [str(warning.message) for warning in warned]
    assert len(said) == 3
    assert "missing = not_there_at_all:X of mixed 1.5 in innerstep.tests is left out: ModuleNotFoundError" in said[0]
    assert "TypeError: thing 'odd'" in said[1]
    assert f"SystemExit: 5 ({site / 'beside_exits.py'}:1)" in said[2]
    assert registry["right"] is beside_installed.A


def test_the_command_lists_the_rest_and_warns_of_a_broken_entry_point(site):
    path = site / "mixed-1.5.dist-info" / "entry_points.txt"
    path.write_text("[innerstep.models]\nx = not_there_at_all:X\n[innerstep.optimizers]\nadamw = beside_installed:A\n")
    ran = shell(COMMAND, "list", cwd=site, PYTHONPATH=f"{ROOT}{os.pathsep}{site}")
    assert ran.returncode == 0
    assert "patch_transformer" in ran.stdout
    first, second = ran.stderr.splitlines()
    assert first.startswith("warning: the entry point adamw = beside_installed:A of mixed 1.5 in innerstep.optimizers")
    assert second.startswith("warning: the entry point x = not_there_at_all:X of mixed 1.5 in innerstep.models")
