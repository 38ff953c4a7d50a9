"""The documents are true: their code runs, and their commands and figures are the program's."""

import json
import os
import re
import subprocess
import sys

import faults
import pytest
import torch
import yaml
from conftest import ROOT, needs

import optimizer
import trainer
import trainer.config.yaml_file

DEMO = ROOT / "configs/button_press.yaml"


def blocks(path, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.fixture
def _scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_scratch")
def test_the_readmes_library_example_runs():
    names = {}
    exec(blocks("README.md", "python")[0], names)
    assert names["optimizer"].scheduler.last_epoch == 200


def test_the_optimizer_readmes_example_runs():
    names = {}
    exec(blocks("optimizer/README.md", "python")[0], names)
    assert names["optimizer"].scheduler.last_epoch == 0


@pytest.mark.usefixtures("_scratch")
def test_the_readmes_yaml_trains_and_its_commands_work(cli, tmp_path):
    (tmp_path / "small.yaml").write_text(blocks("README.md", "yaml")[1])
    commands = [line.split("#")[0].split()[1:] for line in blocks("README.md", "")[-1].strip().splitlines()]
    for full, short in (("total_steps=300", "total_steps=60"), ("total_steps=600", "total_steps=70")):
        commands = [[argument.replace(full, short) for argument in command] for command in commands]
    named = ["plan", "train", "resume", "resume", "report", "checkpoint", "plot", "lr-find", "plot", "validate"]
    named += ["schema", "list", "describe"]
    assert [command[0] for command in commands] == named
    for command in commands:
        code, printed = cli(*command)
        assert code == 0, printed


def test_the_readmes_commands_for_policies_are_there(cli):
    commands = [line.split("#")[0].split()[1:] for line in blocks("README.md", "")[0].strip().splitlines()]
    assert [command[0] for command in commands] == ["train", "import-lerobot", "export", "train"]
    for command in commands:
        assert command[0] in cli("--help")[1]
    for config in (commands[0][1], commands[-1][1]):
        assert (ROOT / config).is_file()
    run_dir = yaml.safe_load((ROOT / commands[0][1]).read_text())["train"]["run_dir"]
    assert os.path.normpath(f"configs/{run_dir}") == commands[2][1]


def within(part, whole):
    """Return whether each value in `part` is in `whole`, at the same place."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and within(part[key], whole[key]) for key in part)
    return part == whole


def test_the_readmes_first_yaml_is_the_demos():
    assert within(yaml.safe_load(blocks("README.md", "yaml")[0]), yaml.safe_load(DEMO.read_text()))


@pytest.mark.usefixtures("_scratch")
def test_a_component_as_the_readme_shows_it(tmp_path):
    source = next(block for block in blocks("README.md", "python") if "my_parts.py" in block)
    (tmp_path / "my_parts.py").write_text(source)
    raw = yaml.safe_load((ROOT / "configs/digits.yaml").read_text())
    added = yaml.safe_load(blocks("README.md", "yaml")[-1])
    raw["plugins"] = added["plugins"]
    raw["model"]["components"] |= added["model"]["components"]
    assert trainer.load_config(raw).model.components["head"].chosen.__name__ == "MyHead"


EXTENSIONS = """
import optimizer, torch, trainer
batch = trainer.DATASET_REGISTRY["grasps"](path="grasps.pt").train.batch(torch.arange(3))
assert {name: tensor.shape for name, tensor in batch.items()} == {"state": (3, 4), "action": (3, 2)}
schedule = {"type": "halving", "every": 2}
lion = optimizer.OPTIMIZER_BUILDER_REGISTRY["lion"](lr=1.0, schedule=schedule).build(torch.nn.Linear(2, 2))
assert isinstance(lion, Lion)
for _ in range(2):
    lion.step()
assert lion.scheduler.get_last_lr() == [0.5]
assert {"state_cloning", "actor_critic"} <= set(trainer.OBJECTIVE_REGISTRY)
evaluation = {"type": "table", "params": {"steps": 30}, "n_episodes": 3}
head = {"type": "mlp", "params": {"in_features": 4, "out_features": 2}}
result = trainer.train({
    "data": {"type": "grasps", "params": {"path": "grasps.pt"}},
    "model": {"components": {"head": head}, "component_optims": {"head": {"type": "adamw"}}},
    "train": {"objective": {"type": "grasping"}, "evaluation": evaluation, "total_steps": 2, "run_dir": "run"},
})
assert {"success", "return", "episode_length", "distance"} <= set(result.metrics)
assert trainer.load_run("run").actor().act({"state": torch.ones(5, 4)}).shape == (5, 2)
"""


def test_own_classes_run_as_the_docs_show_them(tmp_path):
    pytest.importorskip("pytorch_optimizer", reason="needs the extra `test`")
    torch.save({"state": torch.randn(1100, 4), "action": torch.randn(1100, 2)}, tmp_path / "grasps.pt")
    source = "\n".join([*blocks("docs/extending.md", "python"), EXTENSIONS])  # in another process: it registers keys
    subprocess.run([sys.executable, "-c", source], check=True, cwd=tmp_path)


def test_the_metrics_sink_of_the_docs_writes_the_losses_of_a_resumed_run(tmp_path):
    source = next(block for block in blocks("docs/extending.md", "python") if "SINK_REGISTRY" in block)
    (tmp_path / "loss_table.py").write_text(source)
    raw = yaml.safe_load((ROOT / "configs/digits.yaml").read_text())
    added = yaml.safe_load(next(text for text in blocks("docs/extending.md", "yaml") if "log:" in text))
    raw["model"]["component_optims"]["encoder"] = {"type": "adamw"}  # without a warm-up
    run = {"total_steps": 4, "save_every": 2, "log_every": 1, "pictures": False, "run_dir": "run"}
    raw["train"] |= run | added["train"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**raw, "plugins": ["loss_table"]}))
    for command in (["train", "config.yaml"], ["resume", "run/checkpoints/step_00000002"]):
        subprocess.run([sys.executable, "-m", "trainer", *command], check=True, cwd=tmp_path, capture_output=True)
        lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
        losses = [f"{line['step']},{line['loss']}" for line in lines if line["split"] == "train"]
        assert (tmp_path / "run/losses.csv").read_text().split() == losses
        assert len(losses) == 4


def test_the_wiring_in_the_docs_is_the_demos():
    shown = yaml.safe_load(blocks("docs/extending.md", "yaml")[0])
    demo = yaml.safe_load((ROOT / "configs/digits.yaml").read_text())
    assert shown["objective"] == demo["train"]["objective"]


@pytest.mark.usefixtures("_scratch")
def test_a_trained_run_is_used_as_the_docs_show_it(cli, tmp_path):
    (tmp_path / "small.yaml").write_text(blocks("README.md", "yaml")[1])
    assert cli("train", "small.yaml", "--train.total_steps=60", "--train.eval_every=60")[0] == 0
    exports = [text for text in blocks("docs/inference.md", "") if "export runs/small" in text]
    for command in "".join(exports).strip().splitlines():
        code, printed = cli(*command.split()[1:])
        assert code == 0, printed
    names = {}
    loaded, _, script, exported, batch_norm = blocks("docs/inference.md", "python")
    exec(loaded, names)
    last = json.loads((tmp_path / "runs/small/metrics.jsonl").read_text().splitlines()[-1])
    assert names["accuracy"].item() == pytest.approx(last["accuracy"])
    head = names["head"]
    exec(exported, names)
    code = names["backbone"](names["held_out"]["image"])
    assert torch.equal(names["head"](code), head(code))
    exec(script, names)
    assert names["scores"].shape == (5, 10)
    exec(batch_norm, names)
    assert not names["run"].components.training


@pytest.mark.slow
@needs("metaworld")
@pytest.mark.usefixtures("_scratch")
def test_a_policy_acts_in_a_simulator_as_the_docs_show_it(cli, tmp_path, monkeypatch):
    run, acting = tmp_path / "runs/button_press", blocks("docs/inference.md", "python")[1]
    monkeypatch.chdir(ROOT)  # the config names its demonstrations from here
    evaluation = {"n_episodes": 10, "every": 2, "params.max_episode_steps": 5}  # as many at a time as in the config
    short = ["total_steps=4", "pictures=false", *(f"evaluation.{name}={value}" for name, value in evaluation.items())]
    given = [*(f"--train.{one}" for one in short), "--model.component_optims.scene_embedder.params.warmup_steps=2"]
    code, printed = cli("train", "configs/button_press.yaml", f"--train.run_dir={run}", *given)
    assert code == 0, printed
    (tmp_path / "act.py").write_text(acting)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "act.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout in ("success\n", "no success\n"), done.stderr
    evaluating = next(text for text in blocks("docs/inference.md", "") if "evaluate" in text)
    for command in evaluating.strip().splitlines():
        code, printed = cli(*command.split()[1:])
        assert (code, "success" in printed) == (0, True), printed
    assert (tmp_path / "pictures/rollouts.png").is_file()


def test_the_optimizer_readme_names_every_key():
    text = (ROOT / "optimizer/README.md").read_text()
    for key in subprocess.run(
        [sys.executable, "-c", "import optimizer as o; print(*o.OPTIMIZER_BUILDER_REGISTRY, *o.SCHEDULE_REGISTRY)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split():
        assert f"`{key}`" in text, key


def schedule_blocks():
    for path in sorted((ROOT / "docs/schedules").glob("*.md")):
        for index, text in enumerate(blocks(path.relative_to(ROOT), "yaml")):
            loaded = yaml.safe_load(text)
            if "schedule" in loaded:
                yield pytest.param(loaded["schedule"], id=f"{path.stem}-{index}")


@pytest.mark.parametrize("schedule", [*schedule_blocks()])
def test_a_schedule_as_the_docs_write_it(tmp_path, schedule):
    (tmp_path / "block.yaml").write_text(yaml.safe_dump({"schedule": schedule}))
    raw = trainer.config.yaml_file.read_config_file(tmp_path / "block.yaml")["schedule"]  # where 1e-3 is a number
    factory = optimizer.OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-3, schedule=raw)
    built = factory.build(torch.nn.Linear(2, 2), horizon=optimizer.Horizon(20_000, 1000))
    built.step()
    assert built.scheduler.last_epoch == 1


def test_every_schedule_has_a_page_with_a_block():
    pages = "".join(path.read_text() for path in (ROOT / "docs/schedules").glob("*.md"))
    for key in optimizer.SCHEDULE_REGISTRY:
        assert f"`{key}`" in pages, key
    shown = {param.values[0]["type"] for param in schedule_blocks()}
    named = {key.lower() for key in optimizer.SCHEDULE_REGISTRY} - {"lambdalr", "multiplicativelr", "linearlr"}
    assert (
        named - {optimizer.SCHEDULE_REGISTRY.key_of(optimizer.SCHEDULE_REGISTRY[key]).lower() for key in shown} == set()
    )


def test_every_figure_is_shown_and_every_shown_one_is_there():
    shown = {
        name
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for name in re.findall(r"!\[[^]]*\]\((?:\.\./|docs/)?figures/([^)]*)\)", path.read_text())
    }
    assert shown == {path.name for path in (ROOT / "docs/figures").iterdir()}


def prose(path):
    """Return a page without its code."""
    return re.sub(r"^ *```.*?^ *```|`[^`]*`", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """Return the anchors of a page's headings."""
    page = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "optimizer").glob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", prose(path)):
            page = path.parent / target if target else path
            assert page.exists(), f"{path}: {target}"
            assert not anchor or anchor in anchors(page), f"{path}: {target}#{anchor}"


def test_every_page_is_two_clicks_from_the_readme():
    def linked(path):
        targets = re.findall(r"\]\(([^)#:\s]+\.md)", path.read_text())
        return {(path.parent / target).resolve() for target in targets}

    near = linked(ROOT / "README.md")
    near |= {page for path in near for page in linked(path)}
    pages = {path.resolve() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - near == set()


OPTIMIZERS = [
    text
    for page in ("docs/optimizers.md", "docs/schedules/README.md")
    for text in blocks(page, "yaml")
    if text.startswith("type:")
]


@pytest.mark.parametrize("text", OPTIMIZERS)
def test_an_optimizer_as_the_docs_write_it(tmp_path, text):
    (tmp_path / "block.yaml").write_text(text)
    raw = trainer.config.yaml_file.read_config_file(tmp_path / "block.yaml")
    factory = optimizer.OPTIMIZER_BUILDER_REGISTRY[raw["type"]](**raw["params"])
    backbone = torch.nn.ModuleList([torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(3)})])
    parts = {"embed": torch.nn.Embedding(5, 3), "backbone": backbone, "recurrent": torch.nn.GRUCell(3, 3)}
    module = torch.nn.ModuleDict({**parts, "head": torch.nn.Linear(3, 2)})
    assert factory.build(module, horizon=optimizer.Horizon(1000, 100)).scheduler.last_epoch == 0


def test_the_several_adams_of_the_docs():
    source = next(text for text in blocks("docs/optimizers.md", "python") if "multi_adam" in text)
    names = {"policy": torch.nn.Linear(2, 2), "value": torch.nn.Linear(2, 1)}
    exec(source, names)
    assert names["optimizers"].keys() == {"policy", "value"}


def test_the_sawtooth_of_the_docs():
    source = blocks("docs/schedules/README.md", "python")[0] + "\nassert Sawtooth(period=4).lr_at(5) == 0.75"
    subprocess.run([sys.executable, "-c", source], check=True)  # in another process: it registers a key


def test_the_tests_that_the_checklist_names_are_there():
    text = (ROOT / "docs/checklist.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::([\w:]+)`", text)
    assert len(named) > 60
    for file, name in named:
        (path,) = (ROOT / "tests").rglob(file)
        source = path.read_text()
        *classes, function = name.split("::")
        assert re.search(rf"def {function}\(", source), f"{file}::{name}"
        assert all(f"class {one}:" in source for one in classes), f"{file}::{name}"
    rows = re.findall(r"^- \*\*([ABCD]\d+b?)\*\* ", text, re.MULTILINE)
    expected = [f"A{n}" for n in range(1, 25)] + ["A5b", "A9b"] + [f"B{n}" for n in range(1, 16)] + ["C2"]
    assert sorted(rows) == sorted(expected + [f"D{n}" for n in range(1, 22)])
    of_lerobots_config = set(re.findall(r"^- \*\*E(\d+)\*\* ", text, re.MULTILINE))
    assert of_lerobots_config == {str(n) for n in range(1, 24)}


def test_the_tests_that_the_page_on_reliability_names_are_there():
    sources = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    names = {file: re.findall(r"^ *(?:def|class) (\w+)", source, re.MULTILINE) for file, source in sources.items()}
    tests = [name for file in names.values() for name in file]
    named = re.findall(r"\*Test:\*(.*?)(?=\n- |\n\n|\Z)", (ROOT / "docs/reliability.md").read_text(), re.DOTALL)
    assert len(named) > 300
    for text in named:
        there = tests
        for name in re.findall(r"\w*_\w+|Test\w+", re.sub(r"\[[^]]*\]|`benchmarks/\w+\.py`|\.py", "", text)):
            if name in names:
                there = names[name]  # what follows is in this file
            else:
                assert any(name in one for one in there), f"{name} in: {' '.join(text.split())}"


def test_the_readmes_kills_and_mistakes_are_those_of_the_tests():
    def number(file, pattern):
        (path,) = (path for path in ROOT.rglob(file) if ".venv" not in path.parts)
        return int(re.search(pattern, path.read_text())[1])

    variants = len(faults.VARIANTS)
    tested = variants * number("test_faults.py", r'"killed", (\d+), seconds')
    soaked = variants * number("soak.py", r"SEEDS = (\d+)") * number("soak.py", r"KILLS = (\d+)")
    mistakes = number("test_mutations.py", r'"INNERSTEP_MUTATIONS", "(\d+)"')
    many = number("Makefile", r"INNERSTEP_MUTATIONS=(\d+)")
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"kills small runs {tested} times and damages checkpoints in {mistakes:,} ways" in text
    assert f"`make soak` kills {soaked} times and makes {many:,} such mistakes" in text


def test_the_test_files_that_the_docs_name_are_there():
    for page in ("docs/reliability.md", "docs/integrations.md", "docs/limits.md"):
        for file in re.findall(r"`(test_\w+\.py)", (ROOT / page).read_text()):
            assert [*(ROOT / "tests").rglob(file)], f"{page}: {file}"


def test_everything_public_has_a_docstring():
    for module in (optimizer, trainer):
        for name in module.__all__:
            value = getattr(module, name)
            assert isinstance(value, optimizer.Registry) or value.__doc__, name
