"""`train.early_stopping` in a run of two processes: both end after the same update."""

from run_together import config, trained


def made(run, **rule):
    found = config(
        run,
        save_every=3,
        keep_best=None,
        objective={"type": "scored", "params": {"scores": [0.0, 2.0, 1.5, 1.75, 3.0]}},
        early_stopping={"monitor": "val_score", "mode": "max", "patience": 2, **rule},
    )
    return found | {"plugins": ["sample_parts", "sample_scores"]}


def test_all_processes_end_after_the_same_evaluation(two_workers, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    assert two_workers.call(trained, made(run)) == [(6, None)] * 2
    assert (run / "checkpoints/latest").read_text().strip() == "step_00000006"
    folder = run / "checkpoints/step_00000003"
    assert two_workers.call(trained, made(run), folder) == [(6, None)] * 2
    folder = run / "checkpoints/step_00000006"
    assert two_workers.call(trained, made(run), folder) == [(6, None)] * 2
    assert two_workers.call(trained, made(run, patience=9), folder) == [(12, None)] * 2


def test_a_rule_on_a_mean_of_training_ends_all_processes_too(two_workers, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    found = made(run, monitor="train_loss", mode="min", min_delta=1e9, patience=2)
    assert two_workers.call(trained, found) == [(6, None)] * 2
    assert two_workers.call(trained, found, run / "checkpoints/step_00000003") == [(6, None)] * 2
