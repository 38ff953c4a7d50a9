"""Helpers of the tests of `innerstep checkpoint convert`: runs, plain loops of two objects, and the command."""

import io

import torch
import yaml
from rich.console import Console
from sample_runs import config
from torch.optim.lr_scheduler import LambdaLR

from trainer import train

QUIET = Console(file=io.StringIO())
LINEAR = {"type": "linear", "num_training_steps": 50}
KINDS = {
    "adamw": {"type": "adamw", "params": {"lr": 1e-2, "schedule": LINEAR}},
    "sgd": {"type": "sgd", "params": {"lr": 1e-2, "momentum": 0.9, "schedule": LINEAR}},
    "schedule_free": {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}},
}
COMPONENTS = {
    "first": {"type": "normed"},
    "second": {"type": "partly_frozen"},
    "third": {"type": "normed", "freeze": True},
}


def written(path, raw):
    path.write_text(yaml.safe_dump(raw))
    return path


def converted(cli, *arguments):
    code, printed = cli("checkpoint", "convert", *arguments)
    assert code == 0, printed
    return printed


def refused(cli, message, *arguments, out):
    code, printed = cli("checkpoint", "convert", *arguments)
    assert (code, message in printed, "Traceback" in printed) == (2, True, False), printed
    assert not out.exists()
    assert not list(out.parent.glob(".*unfinished"))


def normed():
    from sample_parts import Normed

    return Normed()


def two_objects(module, options=None):
    optimizer = torch.optim.AdamW(module.parameters() if options is None else options, lr=1e-2, fused=True)
    return optimizer, LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 50))


def updates(module, optimizer, scheduler, steps):
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        (module(x) - x.cumsum(1)).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()


def policy_config(tmp_path, **changed):
    optim = {"type": "adamw", "params": {"lr": 1e-2, "schedule": LINEAR}}
    return config(tmp_path / "run", {"policy": {"type": "normed", **changed}}, {"policy": optim})


def make_runs(folder):
    """Return runs of 7 updates in `folder`, by the kind of their two optimizers, with their configs as files."""
    made = {}
    for kind, optim in KINDS.items():
        torch.manual_seed(0)
        raw = config(folder / kind, COMPONENTS, {"first": optim, "second": optim}, total_steps=7)
        train(raw, console=QUIET)
        made[kind] = folder / kind, written(folder / f"{kind}.yaml", raw)
    return made


def make_pair(folder):
    """Return a module in a plain loop of two objects, after 7 updates saved in `folder`, and that."""
    module = normed()
    optimizer, scheduler = two_objects(module)
    updates(module, optimizer, scheduler, range(7))
    folder.mkdir()
    torch.save(module.state_dict(), folder / "policy.pt")
    torch.save({**optimizer.state_dict(), "scheduler": scheduler.state_dict()}, folder / "policy_opt.pt")
    return module, optimizer, scheduler, folder
