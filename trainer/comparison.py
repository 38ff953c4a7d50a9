"""What a run's config and the one that its checkpoint was made with disagree about."""

from typing import Any

from trainer.errors import ConfigError


def refuse_changes(
    saved: dict[str, Any], data: dict[str, int], optimizers: dict[str, dict[str, Any]], train: dict[str, Any]
) -> None:
    """Raise ConfigError with a table if the data, an optimizer or the way of training is another than the checkpoint's.

    saved: the trainer's own state in the checkpoint. data, optimizers, train: the same of the run as it is now.
    """
    position = {name: value for name, value in data.items() if name not in ("epoch", "batch")}
    rows = _differences("data", {name: saved["data"].get(name) for name in position}, position)
    rows += _differences("train", {name: saved.get("train", {}).get(name) for name in train}, train)
    for name in sorted(optimizers.keys() | saved["optimizers"].keys()):
        path = f"model.component_optims.{name}"
        rows += _differences(path, saved["optimizers"].get(name, {}), optimizers.get(name, {}))
    if rows:
        table = "\n".join(f"  {path}: saved {before!r}, now {after!r}" for path, before, after in rows)
        raise ConfigError(
            f"the config differs from the one that the checkpoint was made with:\n{table}\n"
            "Resume with the saved values, or start a new run."
        )


def _differences(path: str, saved: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    return [(f"{path}.{name}", saved.get(name), now.get(name)) for name in names]
