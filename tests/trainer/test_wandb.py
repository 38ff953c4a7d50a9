"""The sink `wandb`, offline: its files are read back by wandb."""

import json
import random
import sys

import pytest
from conftest import files_of, metrics_of, needs, start
from rich.console import Console
from sample_runs import ADAMW, MLPS, config

from trainer import ConfigError, SaveError, resume, train
from trainer.reporting.dashboard_lines import grouped_values

LIBRARY_WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
pytestmark = [needs("wandb"), LIBRARY_WARNS]
QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_X_DISABLE_STATS": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets variables before wandb reads the environment, which it does once a process."""
    import wandb

    def change(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()

    yield change
    monkeypatch.undo()
    wandb.teardown()


def made(run, *sinks, **changed):
    changed = {"eval_every": 4, "save_every": 4, "log": ["jsonl", "wandb", *sinks], **changed}
    found = config(run, MLPS, {"first": ADAMW, "second": ADAMW}, **changed)
    found["plugins"].append("sample_sinks")
    return found


def run_id(run):
    return json.loads((run / "wandb_run.json").read_text())["id"]


def records(run, of):
    """Return the records of the W&B run `of` in all its files, in their order, as wandb reads them."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    found = []
    for path in sorted(run.glob(f"wandb/offline-run-*/run-{of}.wandb")):
        store = DataStore()
        store.open_for_scan(str(path))
        while (content := store.scan_data()) is not None:
            found.append(Record.FromString(content))
        store._fp.close()
    return found


def rows(run, of=None):
    """Return the lines of metrics in the files of a W&B run, without the values that wandb adds."""
    found = []
    for record in records(run, of or run_id(run)):
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if values:
            found.append(values)
    found.sort(key=lambda values: values["_step"])  # wandb's names of two sessions in a second are out of order
    steps = [values.pop("_step") for values in found]
    assert len(steps) == len(set(steps)), "W&B drops a line whose step does not grow"
    return [{name: value for name, value in values.items() if not name.startswith("_")} for values in found]


def written(run):
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [{**grouped_values(line), "step": line["step"]} for line in lines]


def steps(found):
    return [row["step"] for row in found if "train/loss" in row], [
        row["step"] for row in found if "held_out/loss" in row
    ]


def untimed(found):
    return [{name: value for name, value in row.items() if not name.startswith("speed/")} for row in found]


def test_wandb_gets_each_line_and_the_config(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    assert rows(run) == written(run)
    assert steps(rows(run)) == (list(range(12)), [4, 8, 12])
    begun = next(record.run for record in records(run, run_id(run)) if record.HasField("run"))
    assert (begun.run_id, begun.display_name, begun.project) == (run_id(run), "run", "innerstep")
    values = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert values["train"]["total_steps"] == 12
    assert values["model"]["components"]["first"]["type"] == "mlp"
    axes = {record.metric.glob_name: record.metric.step_metric for record in records(run, run_id(run))}
    assert axes["*"] == "step"


def test_a_run_is_the_same_with_the_sink_and_python_draws_the_same_numbers(tmp_path):
    random.seed(3)
    train(made(tmp_path / "run"), console=QUIET)
    train(made(tmp_path / "plain", log=["jsonl"]), console=QUIET)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "plain")
    names = ("first/model.safetensors", "rng.safetensors")
    found = [files_of(tmp_path / name / "checkpoints/step_00000012") for name in ("run", "plain")]
    assert [found[0][name] for name in names] == [found[1][name] for name in names]


def test_a_resume_keeps_the_run_and_has_neither_a_gap_nor_a_double_point(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    begun = run_id(run)
    for step in (8, 4, 12):
        resume(run / f"checkpoints/step_{step:08d}", console=QUIET)
        assert run_id(run) == begun
        assert untimed(rows(run)) == untimed(written(run))


def test_a_killed_run_is_completed(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # wandb's own process for this one
    run, path = tmp_path / "run", tmp_path / "c.json"
    path.write_text(json.dumps(made(run, "killing")))
    killed = start("train", path)
    killed.communicate(timeout=100)
    assert killed.returncode == -9
    begun = run_id(run)
    resume(run, console=QUIET)
    assert run_id(run) == begun
    assert untimed(rows(run)) == untimed(written(run))
    assert steps(rows(run)) == (list(range(12)), [4, 8, 12])


def test_a_run_made_longer_from_its_end_stays_one_run(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    begun = run_id(run)
    resume(run, {"train.total_steps": 15, "resume.on_change": "override"}, console=QUIET)
    assert run_id(run) == begun
    assert steps(rows(run)) == (list(range(15)), [4, 8, 12, 15])
    assert untimed(rows(run)) == untimed(written(run))


def test_another_config_from_an_earlier_checkpoint_begins_another_run_with_the_whole_history(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    first = run_id(run)
    changed = {"model.component_optims.first.params.lr": 0.5, "resume.on_change": "override"}
    resume(run / "checkpoints/step_00000004", changed, console=QUIET)
    assert run_id(run) != first
    assert untimed(rows(run)) == untimed(written(run))
    assert steps(rows(run, first)) == (list(range(12)), [4, 8, 12]), "the first run is as it was"
    train(made(run, log=["jsonl"]), overwrite=True, console=QUIET)
    assert not (run / "wandb").exists(), "the files of both runs are the run's own"


def test_a_change_without_effect_on_the_values_does_not_begin_another_run(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    begun = run_id(run)
    resume(run / "checkpoints/step_00000004", {"train.save_every": 3}, console=QUIET)
    assert run_id(run) == begun
    assert untimed(rows(run)) == untimed(written(run))


def test_the_environment_names_the_run(tmp_path, environment):
    environment(WANDB_RUN_ID="mine-7", WANDB_NAME="pick", WANDB_PROJECT="arms")
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    assert run_id(run) == "mine-7"
    begun = next(record.run for record in records(run, "mine-7") if record.HasField("run"))
    assert (begun.display_name, begun.project) == ("pick", "arms")


def test_wandb_can_be_disabled_by_its_environment(tmp_path, environment):
    environment(WANDB_MODE="disabled")
    train(made(tmp_path / "run"), console=QUIET)
    assert not list((tmp_path / "run").glob("wandb/*run-*/*.wandb"))


def test_a_failure_of_wandb_ends_the_run_with_a_checkpoint_or_is_reported_once(tmp_path, monkeypatch, capsys):
    import wandb

    real = wandb.init

    def failing(*arguments, **options):
        begun = real(*arguments, **options)
        log = begun.log

        def failing_log(values, **options):
            if values["step"] == 6:
                raise wandb.errors.CommError("the network is gone")
            log(values, **options)

        monkeypatch.setattr(begun, "log", failing_log)
        return begun

    monkeypatch.setattr(wandb, "init", failing)
    run = tmp_path / "run"
    with pytest.raises(SaveError, match="Weights & Biases: cannot be written: CommError: the network is gone"):
        train(made(run), console=QUIET)
    assert (run / "checkpoints/step_00000004").is_dir()
    train(made(tmp_path / "other", on_save_error="continue"), console=Console(width=300))
    assert capsys.readouterr().out.count("the network is gone") == 1
    monkeypatch.setattr(wandb, "init", real)
    resume(tmp_path / "other", console=QUIET)
    assert untimed(rows(tmp_path / "other")) == untimed(written(tmp_path / "other")), "a resume sends what it lacks"


def test_a_missing_login_is_reported_before_the_first_update(tmp_path, monkeypatch):
    import wandb

    def unconfigured(**options):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", unconfigured)
    with pytest.raises(SaveError, match="Weights & Biases: cannot be written: UsageError: No API key configured"):
        train(made(tmp_path / "run"), console=QUIET)
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_missing_package_is_asked_for_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"train\.log\.1: wandb needs wandb, .*pip install 'innerstep\[wandb\]'"):
        train(made(tmp_path / "run"), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_files_of_another_use_of_wandb_are_not_overwritten(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    (run / "wandb/offline-run-20260101_010203-theirs").mkdir()
    with pytest.raises(ConfigError, match="did not write: wandb/offline-run-20260101_010203-theirs"):
        train(made(run), overwrite=True, console=QUIET)
