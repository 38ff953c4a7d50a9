"""Our optimizers in other libraries' loops: real runs of Lightning, Accelerate and transformers' Trainer."""

import pytest
import torch
from sample_naive import Naive
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, ReadOnlyScheduler

WITHOUT = "needs the extra `interop`"
lightning = pytest.importorskip("lightning.pytorch", reason=WITHOUT)
accelerate = pytest.importorskip("accelerate", reason=WITHOUT)
transformers = pytest.importorskip("transformers", reason=WITHOUT)

pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs

LINEAR = [1.0 - k / 10 for k in range(11)]


def built(module, key="adamw", **params):
    params = {"lr": 1.0, "schedule": {"type": "linear"}, **params}
    return OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module, horizon=Horizon(10))


def batches(samples=40, batch_size=4):
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(samples, 4, generator=generator)), batch_size=batch_size)


class Automatic(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.lrs = nn.Linear(4, 2), []

    def training_step(self, batch, index):
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = built(self)
        scheduler = {"scheduler": ReadOnlyScheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class Manual(lightning.LightningModule):
    """Two optimizers, stepped in turn."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.layers = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    def training_step(self, batch, index):
        optimizer = self.optimizers()[index % 2]
        self.manual_backward(self.layers[index % 2](batch[0]).square().mean())
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self):
        return [built(layer) for layer in self.layers]


def fit(module, folder, **options):
    options = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    trainer = lightning.Trainer(default_root_dir=folder, log_every_n_steps=1, **options)
    trainer.fit(module, batches())
    return trainer


def test_lightnings_automatic_loop_and_its_lr_monitor(tmp_path):
    module = Automatic()
    monitor = lightning.callbacks.LearningRateMonitor(logging_interval="step")
    logger = lightning.loggers.CSVLogger(tmp_path)
    trainer = fit(module, tmp_path, callbacks=[monitor], logger=logger, accumulate_grad_batches=2)
    expected = [lr for lr in LINEAR[:5] for _ in range(2)]
    assert module.lrs == pytest.approx(expected)
    assert trainer.optimizers[0].scheduler.last_epoch == 5  # one tick an update, not one a batch
    ((_, monitored),) = monitor.lrs.items()
    assert monitored == pytest.approx(expected)


def test_a_lightning_checkpoint_takes_the_schedule_up_where_it_stood(tmp_path):
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    whole, first, second = Automatic(), Automatic(), Automatic()
    lightning.Trainer(max_epochs=2, **options).fit(whole, batches(samples=20))
    trainer = lightning.Trainer(max_epochs=1, **options)
    trainer.fit(first, batches(samples=20))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    lightning.Trainer(max_epochs=2, **options).fit(second, batches(samples=20), ckpt_path=tmp_path / "half.ckpt")
    assert [*first.lrs, *second.lrs] == pytest.approx(LINEAR[:10])
    assert torch.equal(whole.layer.weight, second.layer.weight)


def test_lightnings_manual_loop_with_several_optimizers_is_taken_up(tmp_path):
    options = {"logger": False, "enable_checkpointing": False}
    trainer = fit(Manual(), tmp_path, **options)
    assert [optimizer.scheduler.last_epoch for optimizer in trainer.optimizers] == [5, 5]
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    later = lightning.Trainer(default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", **options)
    later.fit(Manual(), batches(samples=24), ckpt_path=tmp_path / "half.ckpt")
    assert [optimizer.scheduler.last_epoch for optimizer in later.optimizers] == [8, 8]


def test_accelerate_ticks_once_an_update_and_its_state_comes_back(tmp_path):
    def run(steps, load=None, save=None):
        torch.manual_seed(0)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        module = nn.Linear(4, 2)
        optimizer = built(module)
        model, wrapped, loader = accelerator.prepare(module, optimizer, batches())
        if load:
            accelerator.load_state(load)
        lrs = []
        for index, batch in enumerate(loader):
            if index not in steps:
                continue
            with accelerator.accumulate(model):
                lrs.append(optimizer.param_groups[0]["lr"])
                accelerator.backward(model(batch[0]).square().mean())
                wrapped.step()
                wrapped.zero_grad()
        if save:
            accelerator.save_state(save)
        return lrs, optimizer.scheduler.last_epoch, module.weight.detach().clone()

    lrs, updates, weight = run(range(10))
    assert lrs == pytest.approx([lr for lr in LINEAR[:5] for _ in range(2)])
    assert updates == 5
    run(range(4), save=tmp_path / "state")
    later, updates, resumed = run(range(4, 10), load=tmp_path / "state")
    assert (updates, later) == (5, pytest.approx(lrs[4:]))
    assert torch.equal(resumed, weight)


class Rows(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": torch.full((4,), float(index))}


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.lrs, self.optimizer = nn.Linear(4, 2), [], None

    def forward(self, x):
        self.lrs.append(self.optimizer[0].param_groups[0]["lr"])
        return {"loss": self.layer(x).square().mean()}


def test_transformers_trainer_takes_the_optimizer_and_the_stand_in(tmp_path):
    model = Squares()
    optimizer = built(model)
    model.optimizer = [optimizer]  # in a list, so that it is no part of the module
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=10,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        max_grad_norm=0.0,
    )
    optimizers = (optimizer, ReadOnlyScheduler(optimizer))
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), optimizers=optimizers)
    trainer.train()
    assert optimizer.scheduler.last_epoch == 10
    assert model.lrs == pytest.approx(LINEAR[:10])
    logged = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert len(logged) == 10


SCENARIOS = (
    test_lightnings_automatic_loop_and_its_lr_monitor,
    test_a_lightning_checkpoint_takes_the_schedule_up_where_it_stood,
    test_lightnings_manual_loop_with_several_optimizers_is_taken_up,
    test_accelerate_ticks_once_an_update_and_its_state_comes_back,
    test_transformers_trainer_takes_the_optimizer_and_the_stand_in,
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_naive_pattern_fails(scenario, tmp_path, monkeypatch):
    """It brings the scheduler that it has inside, where a tool wants one: the tool steps it as well."""
    monkeypatch.setitem(globals(), "built", lambda module: Naive(module.named_parameters(), lr=1.0, updates=10))
    monkeypatch.setitem(globals(), "ReadOnlyScheduler", lambda optimizer: optimizer.scheduler)
    with pytest.raises(AssertionError):
        scenario(tmp_path)
