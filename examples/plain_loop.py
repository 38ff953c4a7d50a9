"""A training loop without a scheduler: the optimizer, built from a key, moves its learning rate inside `step()`.
Run it with `python plain_loop.py`. It saves after half of the updates, resumes by name, and compares the two runs."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, load_optimizer_state, save_optimizer_state

UPDATES = 200
OPTIONS = {"peak_lr": 1e-2, "start_lr": 1e-4, "end_lr": 1e-4, "warmup_steps": 20}


def new_model_and_optimizer() -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](**OPTIONS)
    return model, factory.build(model, horizon=Horizon(total_steps=UPDATES))  # the module gives the parameters' names


def batch(update: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(update)  # the data depends on the update alone, so it resumes too
    x = torch.randn(64, 8, generator=generator)
    return x, x.square().mean(dim=1, keepdim=True)


def train(model: nn.Module, optimizer: Optimizer, updates: range) -> None:
    for update in updates:
        x, y = batch(update)
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        lr = optimizer.param_groups[0]["lr"]
        optimizer.step()  # updates the parameters, then sets the learning rate of the next update
        optimizer.zero_grad()
        if update % 20 == 0 or update == UPDATES - 1:
            print(f"update {update:3}  lr {lr:.2e}  loss {loss.item():.4f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder)
        model, optimizer = new_model_and_optimizer()
        train(model, optimizer, range(UPDATES // 2))
        torch.save(model.state_dict(), checkpoint / "model.pt")
        save_optimizer_state(optimizer, checkpoint / "optimizer")
        print("saved:", ", ".join(sorted(path.name for path in (checkpoint / "optimizer").iterdir())))
        train(model, optimizer, range(UPDATES // 2, UPDATES))

        print("\nresumed in new objects:")
        resumed, resumed_optimizer = new_model_and_optimizer()
        resumed.load_state_dict(torch.load(checkpoint / "model.pt", weights_only=True))
        load_optimizer_state(resumed_optimizer, checkpoint / "optimizer")  # the schedule's position is part of it
        train(resumed, resumed_optimizer, range(UPDATES // 2, UPDATES))

    same = all(torch.equal(one, other) for one, other in zip(model.parameters(), resumed.parameters(), strict=True))
    print(f"\nthe weights of both runs are {'identical' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
