"""`innerstep doctor`: each check on a sick run that it must find, and on a healthy one that it must not."""

import copy
import json
import math

import pytest
from rich.console import Console
from sample_reports import events, held_out_line, training_line, write_lines, write_run
from sample_runs import ADAMW, MLPS, config

from trainer import train
from trainer.diagnosis.doctor import examine

UPDATES = 100


def found(run):
    """Return the names of the findings in a run, without the component or metric, and whether it is a finding."""
    return {(one.check.partition(":")[0], one.kind) for one in examine(str(run))[1]}


def losses(at):
    """Return the loss of a healthy run at a share of its length: it falls to a twentieth, with a little noise."""
    return 2.0 * math.exp(-3.2 * at) * (1 + 0.05 * math.sin(40 * at))


def lines(updates=UPDATES, held_out=None, **values):
    """Return the lines of a healthy run. held_out, values: other functions of the share of the run."""
    made = []
    own = {"loss": losses, "data_wait": lambda at: 0.02} | {f"lr/{name}": lambda at: 1e-3 * (1 - at) for name in MLPS}
    for step in range(updates):
        at = step / updates
        changed = {name.replace("__", "/"): value for name, value in values.items()}
        line = {name: of(at) for name, of in {**own, **changed}.items()}
        made.append(training_line(step, **{"loss/mse": line["loss"], "loss/kl": 0.0, **line}))
        if (step + 1) % 10 == 0:
            made.append(held_out_line(step + 1, (held_out or losses)(at)))
    return made


def run_of(folder, timeline=None, **values):
    fields = values.pop("fields", {})
    made = write_run(folder / "run", lines(**values), timeline or events(UPDATES), (), total_steps=UPDATES, **fields)
    path = made / "config.yaml"
    raw = json.loads(path.read_text())
    raw["model"]["component_optims"] = {name: copy.deepcopy(FALLING) for name in MLPS}
    path.write_text(json.dumps(raw))
    return made


FALLING = {"type": "adamw", "params": {"lr": 1e-3, "schedule": {"type": "linear"}}}

SICK = {
    "loss rises": {"loss": lambda at: 1.0 + 2 * at},
    "loss jumps": {"loss": lambda at: 15.0 if round(at * UPDATES) in (30, 50, 70, 90) else losses(at)},
    "not finite": {"loss": lambda at: math.nan if at > 0.9 else losses(at)},
    "plateau": {"loss": lambda at: max(1.0, 2 - 8 * at), "lr__first": lambda at: 1e-3 * (1 - at / 2)},
    "overfitting": {"held_out": lambda at: 0.5 + 2 * abs(at - 0.3)},
    "gradient explosion": {"grad_norm__first": lambda at: 5000.0 if round(at * UPDATES) == 60 else 1.0},
    "vanishing gradient": {"grad_norm__second": lambda at: 1e-12, "loss": lambda at: 2 - 0.9 * at},
    "skipped updates": {"skipped__first": lambda at: 30 * at},
    "bound by data": {"data_wait": lambda at: 0.6},
    "constant lr": {"lr__first": lambda at: 1e-3},
    "noisy evaluation": {"held_out": lambda at: 1.0 + 0.3 * math.cos(math.pi * round(at * 10))},
}
NOTES = ("plateau", "noisy evaluation")


def test_a_healthy_run_has_no_findings_and_no_notes(tmp_path, cli):
    run = run_of(tmp_path)
    assert found(run) == set()
    code, printed = cli("doctor", run)
    assert (code, "nothing wrong found" in printed) == (0, True)


@pytest.mark.parametrize("check", SICK)
def test_a_sick_run_is_found(tmp_path, cli, check):
    run = run_of(tmp_path, **SICK[check])
    kind = "note" if check in NOTES else "finding"
    assert (check, kind) in found(run)
    code, printed = cli("doctor", run)
    assert f"{kind}: {check}" in printed
    assert code == (0 if check in NOTES else 1)
    for label in ("measured", "meaning", "change"):
        assert label in printed


def test_a_schedule_longer_than_the_run_is_found(tmp_path):
    run = run_of(tmp_path)
    raw = json.loads((run / "config.yaml").read_text())
    schedule = raw["model"]["component_optims"]["first"]["params"]["schedule"]
    schedule["num_training_steps"] = 10 * UPDATES
    (run / "config.yaml").write_text(json.dumps(raw))
    (one,) = examine(str(run))[1]
    assert (one.check, "longer than the run" in one.measured) == ("schedule: first", True)


def test_a_warm_up_from_0_is_a_note(tmp_path):
    run = run_of(tmp_path)
    raw = json.loads((run / "config.yaml").read_text())
    schedule = raw["model"]["component_optims"]["first"]["params"]["schedule"]
    schedule["num_warmup_steps"] = 5
    (run / "config.yaml").write_text(json.dumps(raw))
    (one,) = examine(str(run))[1]
    assert (one.check, one.kind, "Begin above 0" in one.remedy) == ("schedule: first", "note", True)


def test_gradients_clipped_far_below_their_norm_are_a_note(tmp_path):
    run = run_of(tmp_path, fields={"grad_clip_norm": 1e-3})
    assert found(run) == {("clipping", "note")}
    (tmp_path / "mild").mkdir()
    assert found(run_of(tmp_path / "mild", fields={"grad_clip_norm": 1.0})) == set()


def test_an_exception_that_ended_the_run_is_found(tmp_path):
    assert found(run_of(tmp_path, events(UPDATES, ended="UserCodeError"))) == {("failure", "finding")}


@pytest.mark.parametrize("ended", ["done", "StoppedBySignal", None])
def test_a_run_that_was_stopped_or_killed_or_trains_is_not_sick(tmp_path, ended):
    assert found(run_of(tmp_path, events(UPDATES, ended=ended))) == set()


def test_updates_made_twice_and_hours_without_a_checkpoint_are_notes(tmp_path):
    timeline = events(UPDATES, resumed_after=[60], ended="done")
    timeline.insert(1, {"event": "evaluation", "step": 90, "elapsed": 95.0, "seconds": 1.0})
    assert found(run_of(tmp_path, timeline)) == {("lost work", "note")}
    late = [{**line, "elapsed": line["elapsed"] * 50} for line in events(UPDATES)]
    assert found(run_of(tmp_path / "late", late)) == {("work at risk", "note")}


def test_checkpoints_that_take_long_are_found(tmp_path):
    timeline = events(UPDATES)
    timeline[1]["seconds"] = 60.0
    assert found(run_of(tmp_path, timeline)) == {("checkpoints take long", "finding")}


def test_losses_that_depend_on_each_other_may_rise(tmp_path):
    run = run_of(tmp_path, **SICK["loss rises"])
    raw = json.loads((run / "config.yaml").read_text())
    raw["train"]["objective"] = {"type": "td3_bc", "params": {}}
    (run / "config.yaml").write_text(json.dumps(raw))
    assert ("loss rises", "finding") not in found(run)


def trained(folder, optims, objective="regression", components=MLPS, **changed):
    """Train a short run with three checkpoints; return its directory."""
    made = config(folder / "run", components, optims, objective=objective, save_every=4, **changed)
    made["data"]["params"] = {"samples": 64}
    train(made, console=Console(quiet=True))
    return folder / "run"


def checks(run):
    return {one.check for one in examine(str(run))[1]}


USUAL = {"type": "adamw", "params": {"lr": 1e-2}}
NORMED = {"first": {"type": "normed"}, "second": MLPS["second"]}


def test_weights_that_move_as_usual_are_healthy(tmp_path):
    assert checks(trained(tmp_path, dict.fromkeys(MLPS, USUAL), components=NORMED)) == set()


def test_a_component_at_lr_0_has_never_moved(tmp_path):
    still = {"type": "torch.optim.SGD", "params": {"lr": 0.0}}
    run = trained(tmp_path, {"first": ADAMW, "second": still})
    (one,) = [one for one in examine(str(run))[1] if one.check.startswith("never moved")]
    assert (one.check, "lr is 0" in one.meaning) == ("never moved: second", True)


def test_far_too_high_and_far_too_low_rates_show_in_the_weights(tmp_path):
    high = {"type": "adamw", "params": {"lr": 3.0}}
    assert "lr too high: first" in checks(trained(tmp_path, {"first": high, "second": USUAL}))
    low = {"type": "adamw", "params": {"lr": 1e-8}}
    run = trained(tmp_path / "low", dict.fromkeys(MLPS, low), total_steps=40)
    assert {"lr too low: first", "lr too low: second"} <= checks(run)


def test_batch_norm_in_eval_mode_beside_weights_that_train_is_found(tmp_path):
    components = {"first": {"type": "sample_trouble_parts.EvalNorm"}, "second": MLPS["second"]}
    assert "BatchNorm stands still: first" in checks(
        trained(tmp_path, dict.fromkeys(MLPS, USUAL), components=components)
    )


def test_a_parameter_that_the_forward_pass_leaves_out_is_found(tmp_path):
    components = {"first": {"type": "sample_trouble_parts.HalfUsed"}, "second": MLPS["second"]}
    run = trained(tmp_path, dict.fromkeys(MLPS, USUAL), components=components)
    (one,) = [one for one in examine(str(run))[1] if one.check == "never moved: first"]
    assert "unused" in one.measured
    for folder in sorted((run / "checkpoints").glob("step_*"))[:-1]:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        folder.rmdir()
    (one,) = [one for one in examine(str(run))[1] if one.check == "never moved: first"]
    assert "no state of 1 of" in one.measured or "no state of 2 of" in one.measured


def test_json_has_the_same_findings(tmp_path, cli):
    code, printed = cli("doctor", run_of(tmp_path, **SICK["bound by data"]), "--json")
    values = json.loads(printed)
    assert (code, values["done"], values["total"]) == (1, UPDATES, UPDATES)
    (one,) = values["findings"]
    assert one.keys() == {"check", "measured", "meaning", "remedy", "kind"}
    assert "--data.workers=2" in one["remedy"]


@pytest.mark.parametrize("part", ["metrics.jsonl", "timeline.jsonl", "config.yaml"])
@pytest.mark.parametrize("content", [None, "", "{", "\x00\xff"])
def test_missing_and_damaged_files_leave_out_what_they_would_show(tmp_path, cli, part, content):
    run = run_of(tmp_path)
    (run / part).unlink()
    if content is not None:
        (run / part).write_text(content)
    code, printed = cli("doctor", run)
    assert (code, "checks" in printed) == (0, True)


def test_a_folder_without_a_run_is_refused(tmp_path, cli):
    code, printed = cli("doctor", tmp_path)
    assert (code, "there is no run here" in printed) == (2, True)
    write_lines(tmp_path / "metrics.jsonl", lines(updates=2))
    assert cli("doctor", tmp_path)[0] == 0


def test_nothing_is_written(tmp_path, cli):
    run = run_of(tmp_path)
    before = sorted(path.name for path in run.rglob("*"))
    cli("doctor", run)
    assert sorted(path.name for path in run.rglob("*")) == before
