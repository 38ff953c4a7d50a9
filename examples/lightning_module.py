"""A LightningModule whose `configure_optimizers` returns one optimizer and no scheduler.
Run it with `python lightning_module.py`, after `pip install lightning`. It trains, resumes, and compares the runs."""

import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

EPOCHS = 4


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def configure_optimizers(self) -> Optimizer:
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](
            peak_lr=1e-2, end_lr=1e-4, warmup_steps=10, grad_clip_norm=1.0
        )
        # Lightning knows the length of the run, so the config needs no total_steps.
        return factory.build(self, horizon=Horizon(int(self.trainer.estimated_stepping_batches)))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.layers(x), y)

    def on_train_epoch_end(self) -> None:
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        print(f"epoch {self.current_epoch}: {self.global_step} updates, the next one at lr {lr:.2e}")


def data() -> DataLoader[tuple[Tensor, ...]]:
    x = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x.square().mean(dim=1, keepdim=True)), batch_size=32)


def fit(folder: Path, ckpt_path: Path | None = None) -> Regression:
    seed_everything(0, verbose=False)
    module = Regression()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data(), ckpt_path=ckpt_path)
    return module


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = fit(folder)
        print("\nresumed from Lightning's checkpoint after epoch 1:")
        resumed = fit(folder, ckpt_path=folder / "epoch=1.ckpt")
    same = all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
    print(f"\nthe weights of both runs are {'identical' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
