"""`train.ema`: the values of the averages, the evaluations at them, and training that they leave as it is."""

import copy
import io
import json
from itertools import pairwise

import pytest
import sample_averages
import sample_parts
import torch
from conftest import files_of, metrics_of, needs
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, MLPS, PLATEAU, SCHEDULE_FREE, WARMUP, config, ready, two

from trainer import ConfigError, train
from trainer.config.averages import EmaConfig
from trainer.config.load import load_config
from trainer.loop.averaged_weights import averaged_weights
from trainer.loop.weight_ema import WeightEma, decay_at
from trainer.reporting.plan_table import plan_text

EMA = {"decay": 0.9, "power": 0.75}
OPTIMS = {"first": ADAMW, "second": WARMUP}
LAST = "checkpoints/step_00000012"


@pytest.fixture
def printed():
    return Console(file=io.StringIO(), width=1000)


def averaged(run, components=None, optims=None, ema=EMA, **changed):
    made = config(run, components or two(), optims or OPTIMS, ema=ema, **changed)
    made["plugins"].append("sample_averages")
    return made


@pytest.mark.parametrize(
    ("settings", "decays"),
    [
        ({}, [0.0, 1 - 2**-0.75, 1 - 3**-0.75, 1 - 4**-0.75]),
        ({"decay": 0.5}, [0.0, 1 - 2**-0.75, 0.5, 0.5]),
        ({"decay": 0.95, "power": 1.0}, [0.0, 1 / 2, 2 / 3, 3 / 4]),
        ({"decay": 0.75, "power": None}, [0.75] * 4),
    ],
)
def test_the_decay_grows_with_the_steps_of_the_component(settings, decays):
    assert [decay_at(EmaConfig(**settings), step) for step in range(4)] == pytest.approx(decays, rel=1e-12)


def test_the_decay_reaches_the_values_that_its_authors_give():
    long = EmaConfig(decay=0.99999)
    assert decay_at(long, 10_000) == pytest.approx(0.999, abs=1e-5)
    assert decay_at(long, 215_400) == pytest.approx(0.9999, abs=1e-6)


@needs("diffusers")
def test_the_decay_is_that_of_diffusers():
    from diffusers.training_utils import EMAModel

    model = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=0.99, use_ema_warmup=True, power=0.75)
    ours = [decay_at(EmaConfig(decay=0.99), step) for step in range(1000)]
    assert ours == [model.get_decay(step + 1) for step in range(1000)]


@pytest.mark.parametrize("changed", [{}, {"accumulate": 2}, {"grad_clip_norm": 0.1}], ids=str)
def test_the_averages_are_those_of_a_slow_twin(tmp_path, printed, changed):
    optims = {"first": {**ADAMW, "every": 3}, "second": WARMUP}
    trainer = ready(averaged(tmp_path / "run", optims=optims, **changed), printed)
    settings = EmaConfig(**EMA)

    def share(step):
        return 1 - decay_at(settings, step)

    twins = {
        name: sample_averages.SlowTwin(trainer.components[name], trainer.optimizers[name], share) for name in OPTIMS
    }
    trainer.run()
    assert {name: ema.steps for name, ema in trainer.averages.ema.items()} == {"first": 4, "second": 12}
    for name, twin in twins.items():
        assert twin.differing(trainer.averages.ema[name].tensors) == []
        assert twin.differing(dict(trainer.components[name].named_parameters()))


def test_training_is_the_same_with_averages_and_without(tmp_path, printed):
    often = {"eval_every": 3, "save_every": 5}
    for run, ema in (("with", EMA), ("without", None)):
        train(averaged(tmp_path / run, ema=ema, **often), console=printed)
    lines = {run: metrics_of(tmp_path / run) for run in ("with", "without")}
    trained = {run: [line for line in found if line["split"] == "train"] for run, found in lines.items()}
    assert trained["with"] == trained["without"]
    held_out = {run: [line for line in found if line["split"] == "held_out"] for run, found in lines.items()}
    assert all(one["loss"] != other["loss"] for one, other in zip(held_out["with"], held_out["without"], strict=True))
    files = {run: files_of(tmp_path / run / LAST) for run in ("with", "without")}
    kept = [name for name in files["without"] if name not in ("manifest.json", "trainer.json")]
    assert all(files["with"][name] == files["without"][name] for name in kept)
    averages = {f"{name}/ema.{kind}" for name in OPTIMS for kind in ("safetensors", "json")}
    assert files["with"].keys() - files["without"].keys() == averages


def test_an_evaluation_is_at_the_averages_and_gives_the_same_memory_back(tmp_path, printed, monkeypatch):
    trainer = ready(averaged(tmp_path / "run"), printed)
    trainer.run()
    component, ema, seen = trainer.components["first"], trainer.averages.ema["first"], {}
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in component.state_dict().items()}
    losses = sample_parts.Regression.losses

    def watched(self, components, batch):
        seen.update(component.state_dict())
        seen["training"] = component.training
        return losses(self, components, batch)

    monkeypatch.setattr(sample_parts.Regression, "losses", watched)
    trainer.evaluations.on_held_out()
    assert seen.pop("training") is False
    for name, average in ema.tensors.items():
        assert seen[name].data_ptr() == average.data_ptr(), "an exchange copies nothing"
        assert not torch.equal(average, before[name][1])
    assert "norm.running_mean" in ema.tensors
    assert seen["norm.num_batches_tracked"].data_ptr() == before["norm.num_batches_tracked"][0]
    after = {name: (tensor.data_ptr(), tensor) for name, tensor in component.state_dict().items()}
    for name, (place, value) in before.items():
        assert after[name][0] == place
        assert torch.equal(after[name][1], value)


def test_an_evaluation_that_fails_gives_the_weights_back(tmp_path, printed, monkeypatch):
    trainer = ready(averaged(tmp_path / "run"), printed)
    trainer.run()
    before = {name: tensor.data_ptr() for name, tensor in trainer.components.state_dict().items()}

    def fails(self, components, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_parts.Regression, "losses", fails)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluations.on_held_out()
    assert {name: tensor.data_ptr() for name, tensor in trainer.components.state_dict().items()} == before


def test_beside_a_schedule_free_component_statistics_are_measured_and_given_back(tmp_path, printed):
    optims = {"first": ADAMW, "second": SCHEDULE_FREE}
    trainer = ready(averaged(tmp_path / "run", optims=optims, eval_every=2), printed)
    trainer.run()
    assert list(trainer.averages.ema) == ["first"]
    assert "train.ema: averages of first: decay 0.9, warm-up power 0.75; not of second: its optimizer" in plan_text(
        trainer.plan()
    )
    with averaged_weights(trainer.optimizers.values(), trainer.averages):
        averages = {name: tensor.clone() for name, tensor in trainer.components["first"].state_dict().items()}
    trainer.evaluations.on_held_out()
    with averaged_weights(trainer.optimizers.values(), trainer.averages):
        again = trainer.components["first"].state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in averages.items())


def test_monitors_and_the_best_checkpoint_see_the_averages(tmp_path, printed):
    frozen_average = {"decay": 0.9999999, "power": None}  # it stays where the run starts
    optims = {"first": copy.deepcopy(PLATEAU), "second": ADAMW}
    optims["first"]["params"]["schedule"].update(monitor="val_loss", threshold=1e-4)
    train(averaged(tmp_path / "run", MLPS, optims, frozen_average, eval_every=2, keep_best={}), console=printed)
    lines = metrics_of(tmp_path / "run")
    losses = [line["loss"] for line in lines if line["split"] == "held_out"]
    assert max(losses) - min(losses) < 1e-5
    lrs = [line["lr/first"] for line in lines if line["split"] == "train"]
    assert all(later < earlier for earlier, later in pairwise(lrs[3::2]))


def test_only_chosen_components_are_averaged(tmp_path, cli):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(averaged(tmp_path / "run", ema={**EMA, "components": ["second"], "power": None})))
    assert "train.ema: averages of second: decay 0.9, no warm-up" in cli("plan", path)[1]
    assert cli("train", path)[0] == 0
    assert [path.parent.name for path in (tmp_path / "run" / LAST).glob("*/ema.json")] == ["second"]


REFUSED = {
    "unknown": (["frist"], OPTIMS, r"train\.ema\.components: there is no component 'frist'; did you mean 'first'\?"),
    "twice": (["first", "first"], OPTIMS, r"train\.ema\.components: must name each component once"),
    "none": ([], OPTIMS, r"train\.ema\.components: must name a component"),
    "frozen": (["kept"], OPTIMS, r"train\.ema\.components: kept is frozen"),
    "target": (["slow"], OPTIMS, r"train\.ema\.components: slow is frozen"),
    "schedule_free": (["first"], {**OPTIMS, "first": SCHEDULE_FREE}, r"components: the optimizer of first averages"),
    "nothing_left": (None, {"first": SCHEDULE_FREE, "second": SCHEDULE_FREE}, r"^train\.ema: there is nothing to"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_components_that_cannot_be_averaged_are_refused_before_anything_is_written(tmp_path, printed, case):
    names, optims, message = REFUSED[case]
    components = two() | {"kept": {"type": "normed", "freeze": True}, "slow": {"ema_of": "first", "tau": 0.5}}
    with pytest.raises(ConfigError, match=message):
        train(averaged(tmp_path / "run", components, optims, {**EMA, "components": names}), console=printed)
    assert not (tmp_path / "run").exists()


def test_settings_out_of_range_are_refused(tmp_path):
    for ema, message in (({"decay": 1.0}, "decay: must be less than 1"), ({"power": 0}, "power: must be greater")):
        with pytest.raises(ConfigError, match=rf"train\.ema\.{message}"):
            load_config(averaged(tmp_path / "run", ema=ema))


def test_the_average_of_a_parameter_with_few_bits_is_kept_in_float32(tmp_path, printed):
    components = {"first": {"type": "low_precision"}, "second": {"type": "normed"}}
    made = averaged(tmp_path / "run", components, ema={"decay": 0.999, "power": None})
    trainer = ready(made, printed)
    trainer.run()
    component, ema = trainer.components["first"], trainer.averages.ema["first"]
    average = ema.tensors["linear.weight"]
    assert average.dtype == torch.float32
    with averaged_weights((), trainer.averages):
        assert component.linear.weight.dtype == torch.bfloat16
        assert torch.equal(component.linear.weight, average.bfloat16())
    saved = load_file(tmp_path / "run" / LAST / "first/ema.safetensors")
    assert torch.equal(saved["linear.weight"], average)
    assert not torch.equal(average, average.bfloat16().float())


def test_frozen_parameters_and_tied_ones_have_the_averages_that_they_need():
    torch.manual_seed(3)
    for component, names in (
        (sample_parts.PartlyFrozen(), {"trained.weight", "trained.bias"}),
        (sample_parts.Tied(), {"first.weight", "first.bias", "second.bias"}),
    ):
        ema = WeightEma(component, EmaConfig(decay=0.5, power=None))
        start = {name: tensor.clone() for name, tensor in component.state_dict().items()}
        assert ema.tensors.keys() == names
        with torch.no_grad():
            for parameter in component.parameters():
                parameter.add_(parameter.requires_grad)
        ema.follow()
        state = ema.state(component)
        assert state.keys() == names | ({"second.weight"} if "second.weight" in component.state_dict() else set()) - {
            "kept.weight"
        }
        assert all(torch.equal(value, start[name].lerp(start[name] + 1, 0.5)) for name, value in state.items())
