"""The objective `classification`: top-k accuracies, of training batches and of held-out samples."""

import pytest
import torch
from conftest import metrics_of
from rich.console import Console
from sample_runs import ADAMW, config
from torch import nn

from trainer import ConfigError, resume, train
from trainer.builtins.classification import Classification

QUIET = Console(quiet=True)


class Scores(nn.Module):
    """Returns its input as scores."""

    def forward(self, x):
        return x


def measured(scores, label, top_k):
    objective = Classification(input="scores", top_k=top_k)
    outcome = objective.losses(nn.ModuleDict({"head": Scores()}), {"scores": scores, "label": label})
    return {name: float(value) for name, value in outcome.measured().items()}


def test_the_accuracies_count_the_classes_with_the_highest_scores():
    scores = torch.tensor([[9.0, 5, 4, 3, 1], [2, 9, 8, 7, 6], [1, 2, 3, 4, 5], [8, 7, 6, 5, 4]])
    label = torch.tensor([0, 3, 0, 2])  # first, third, last and third of its scores
    assert measured(scores, label, [3, 2, 5]) == {
        "accuracy": 0.25, "top3_accuracy": 0.75, "top2_accuracy": 0.25, "top5_accuracy": 1.0}  # fmt: skip


def test_the_accuracies_of_random_scores_are_those_of_a_sort():
    scores, label = torch.randn(200, 7), torch.randint(0, 7, (200,))
    ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)[torch.arange(200), label]
    found = measured(scores, label, [1, 4, 6])
    assert found == {
        name: pytest.approx(float((ranks < k).double().mean()))
        for name, k in (("accuracy", 1), ("top4_accuracy", 4), ("top6_accuracy", 6))
    }


def made(run, top_k, **changed):
    head = {"type": "mlp", "params": {"in_features": 64, "out_features": 10}}
    flat = {"type": "torch.nn.Flatten"}
    found = config(run, {"flat": flat, "head": head}, {"head": ADAMW}, objective="classification", **changed)
    found["data"] = {"type": "digits", "batch_size": 64}
    found["train"]["objective"]["params"] = {"top_k": top_k}
    return found


def test_training_and_evaluation_have_them_and_a_rule_can_wait_for_one(tmp_path):
    pytest.importorskip("sklearn", reason="needs the extra `data`")
    run = tmp_path / "run"
    best = {"monitor": "val_top5_accuracy", "mode": "max"}
    train(made(run, [1, 5], eval_every=4, keep_best=best, accumulate=2, save_every=6), console=QUIET)
    lines = metrics_of(run)
    assert {line["split"] for line in lines} == {"train", "held_out"}
    assert all(0 <= line["accuracy"] <= line["top5_accuracy"] <= 1 for line in lines)
    assert "top1_accuracy" not in lines[0]
    assert 0.5 < lines[-1]["top5_accuracy"] < 1
    assert (run / "checkpoints/best").is_file()
    resume(run / "checkpoints/step_00000006", console=QUIET)
    assert metrics_of(run) == lines


@pytest.mark.parametrize(
    ("top_k", "message"),
    [
        ([5, 11], r"train\.objective\.params\.top_k: must be <= 10, the classes that have scores; got 11"),
        ([0], r"train\.objective\.params\.top_k\.0: .*1; got 0"),
        ([2.5], r"train\.objective\.params\.top_k\.0: must be a whole number"),
        (5, r"train\.objective\.params\.top_k: .*list"),
    ],
)
def test_a_number_that_cannot_be_is_refused(tmp_path, top_k, message):
    pytest.importorskip("sklearn", reason="needs the extra `data`")
    with pytest.raises(ConfigError, match=message):
        train(made(tmp_path / "run", top_k), console=QUIET)
    assert not (tmp_path / "run").exists()
