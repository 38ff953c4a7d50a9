"""With --no-plugins, nothing that a stranger's config names is imported; one file of ours imports what configs name."""

import ast
import itertools
import sys
from contextlib import suppress

import pytest
from pydantic import BaseModel, ValidationError
from sample_files import _forgets, forget, written  # noqa: F401  # a fixture
from sample_strangers import PLACES, STRANGER, config, of, optimizer
from sources import SOURCES

import trainer
from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Registry, UnknownKeyError, no_plugins
from optimizer.config.arguments import check_arguments, signature_model
from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY
from trainer.errors import ConfigError

pytestmark = pytest.mark.usefixtures("_forgets")


@pytest.mark.parametrize("place", PLACES)
def test_no_place_in_a_config_imports_a_strangers_module(cli, tmp_path, place):
    path, mark, before = (
        written(tmp_path, config(tmp_path, PLACES[place]), stranger=STRANGER),
        tmp_path / "RAN",
        [*sys.path],
    )
    for command in ("plan", "plot", "train"):
        code, printed = cli(command, path, "--no-plugins")
        assert code == 2
        assert (
            "--no-plugins, or no_plugins() in Python, allows only keys that are built in; not imported: str" in printed
        )
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
    assert sys.path == before
    cli("plan", path)  # which fails, as what the config names is not in the module; but it was imported
    assert mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model.components.head.type": "torch.nn.Linear"},
        {"model.components.head.type": "builtins.exec"},
        {"model.components.head.type": "trainer.builtins.modules.MLP"},
        {"train.objective.type": "subprocess.Popen"},
        of("torch.optim.SGD", lr=1e-3),
        optimizer(schedule={"type": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9}),
        optimizer(schedule={"type": "LambdaLR", "lr_lambda": "os.abort"}),
        {"plugins": ["antigravity"]},
    ],
    ids=str,
)
def test_nothing_of_python_or_torch_is_reached_by_a_dotted_path(tmp_path, change):
    with no_plugins(), pytest.raises(ConfigError, match=r"--no-plugins, or no_plugins.* not imported: "):
        trainer.load_config(config(tmp_path, change))


REGISTRIES = (OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, MODEL_REGISTRY, DATASET_REGISTRY, OBJECTIVE_REGISTRY)
NAMED = ("stranger.thing", {"type": "stranger.Thing"}, [{"type": "stranger.Thing"}], {"lr": {"type": "stranger.Thing"}})


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.name)
def test_no_parameter_of_any_key_imports_a_strangers_module(tmp_path, monkeypatch, registry):
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    with no_plugins():
        for cls in registry.values():
            model = cls if issubclass(cls, BaseModel) else signature_model(cls)
            names = [field.alias or name for name, field in model.model_fields.items()]
            for name, value in itertools.product(names, NAMED):
                with suppress(ValidationError):
                    check_arguments(cls, {name: value})
    assert not (tmp_path / "RAN").exists()


def test_all_that_a_config_would_import_is_named_at_once(cli, tmp_path):
    changes = {**PLACES["function of a schedule"], "plugins": ["stranger", "another"], "data.type": "third.Data"}
    _, printed = cli("plan", written(tmp_path, config(tmp_path, changes)), "--no-plugins")
    assert [line.rpartition("not imported: ")[2] for line in printed.splitlines()] == [
        "stranger, another",
        "third",
        "stranger",
    ]


def test_a_config_of_built_in_keys_trains_and_resumes(cli, tmp_path):
    path = written(tmp_path, config(tmp_path, {}))
    for command in (["plan", path], ["train", path], ["resume", tmp_path / "run"], ["describe", "mlp"], ["list"]):
        code, printed = cli(*command, "--no-plugins")
        assert code == 0, printed


def test_a_strangers_run_is_not_resumed_with_its_code(cli, tmp_path):
    assert cli("train", written(tmp_path, config(tmp_path, {})))[0] == 0
    saved = tmp_path / "run" / "config.yaml"
    heading = f'# modules are looked for in ["{tmp_path}"]\n'
    saved.write_text(heading + saved.read_text().replace("plugins: []", "plugins: [stranger]"))
    (tmp_path / "stranger.py").write_text(STRANGER)
    code, printed = cli("resume", tmp_path / "run", "--no-plugins")
    assert code == 2
    assert f"error: {saved}:4:1: plugins: --no-plugins" in printed
    assert not (tmp_path / "RAN").exists()
    code, printed = cli("resume", tmp_path / "run")
    assert code == 0
    assert f"{saved} imports stranger ({tmp_path / 'stranger.py'})" in printed.splitlines()[0]


def test_a_key_on_the_command_line_is_not_imported(cli, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    for command in ("describe", "plot"):
        code, printed = cli(command, "stranger.Curve", "--no-plugins")
        assert code == 2
        assert "not imported: stranger" in printed
    convert = ("checkpoint", "convert", tmp_path, tmp_path / "out", "--to", "innerstep", "--no-plugins")
    (tmp_path / "net.pt").touch()
    path = written(tmp_path, config(tmp_path, PLACES["plugin"]))
    assert "not imported: stranger" in cli(*convert, "--config", path)[1]
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("flag", ["--no_plugins=true", "--no-plugin=1", "--noplugins=yes", "--no-plugins-please=1"])
def test_a_misspelt_flag_imports_nothing(cli, tmp_path, flag):
    path = written(tmp_path, config(tmp_path, PLACES["plugin"]), stranger=STRANGER)
    code, printed = cli("plan", path, flag)
    assert code == 2
    assert f"{flag.partition('=')[0]}: there is no such option; did you mean --no-plugins?" in printed
    assert not (tmp_path / "RAN").exists()


def test_entry_points_are_loaded_only_where_they_may_be(tmp_path, monkeypatch):
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[innerstep.tests]\ntheirs = stranger:Theirs\n")
    (tmp_path / "stranger.py").write_text(f"{STRANGER}\n\nclass Theirs: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing", object, entry_points="innerstep.tests")
    with no_plugins():
        assert list(registry) == []
        with pytest.raises(UnknownKeyError, match="--no-plugins excludes those of installed distributions"):
            registry["theirs"]
    assert not (tmp_path / "RAN").exists()
    assert list(registry) == ["theirs"]


def test_a_class_that_was_imported_before_is_refused_too():
    path = "torch.optim.Adadelta"
    assert OPTIMIZER_BUILDER_REGISTRY[path] is not None
    with no_plugins():
        with no_plugins():
            pass
        with pytest.raises(UnknownKeyError, match=r"not imported: torch\.optim"):
            OPTIMIZER_BUILDER_REGISTRY[path]
    assert SCHEDULE_REGISTRY["torch.optim.lr_scheduler.StepLR"] is SCHEDULE_REGISTRY["StepLR"]


IMPORTERS = {"importlib", "importlib.util", "importlib.machinery", "importlib.metadata", "pkgutil", "runpy", "imp"}
MAY_IMPORT = {
    "optimizer.config.importing",  # the gate
    "optimizer.config.registry",  # modules that packages have named to it, when a key is first looked up
    "optimizer",  # its own modules, when their names are first used
    "trainer",  # the same
    "optimizer.testing.pytest_suite",  # a test file: what the environment of the tests names
    "trainer.runtime.version",  # the version of innerstep
    "trainer.exporting.torch_format",  # the script that it has just written
    "trainer.reporting.plot_files",  # whether matplotlib is installed
    "trainer.importing.train_config",  # whether LeRobot is installed
    # the modules in their own folders, which register themselves
    "optimizer.factories",
    "optimizer.kernels.registry",
    "optimizer.schedules",
    "trainer.builtins",
    "trainer.lerobot_policies",
    "trainer.offline_rl",
    "trainer.policies",
    "trainer.reporting.metrics_log",
}


def test_one_file_imports_what_configs_name():
    found = set()
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if set(names) & IMPORTERS or called in ("__import__", "exec", "eval", "compile"):
                found.add(module)
    assert found == MAY_IMPORT
