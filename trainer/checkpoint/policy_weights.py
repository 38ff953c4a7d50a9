"""The weights of a whole policy, joined from the folders of its components in a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from optimizer.config import bounded, shown

from ..run_layout import WEIGHTS
from ..runtime.files import DamagedCheckpointError, read_tensors
from .contents import averaged_components, expected_content, read_averages, read_progress
from .directory import damages, read_manifest

POLICY = "policy"
"""The key in the trainer's values: the text before the names of each of the policy's components, by component."""


def policy_prefixes(folder: Path) -> dict[str, str]:
    """Return the text that makes the names in a component's folder the policy's, by component.

    Returns:
        Empty if the run has no `model.policy`.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
    """
    found = read_progress(folder).values.get(POLICY, {})
    with expected_content(folder):
        if not isinstance(found, Mapping) or not all(isinstance(prefix, str) for prefix in found.values()):
            raise ValueError(f"{POLICY} is {shown(str(found))}")
        return dict(found)


def joined_weights(folder: Path, averages: bool = False) -> dict[str, Tensor]:
    """Return the weights of the policy in the checkpoint `folder` by their names in the policy; empty without one.

    Args:
        folder: The checkpoint's.
        averages: Whether to take the averages of `train.ema`, of the components that have some.

    Raises:
        DamagedCheckpointError: A file is missing, or not as it was written.
        ValueError: No component of the policy has averages.
    """
    manifest = read_manifest(folder)
    weights: dict[str, Tensor] = {}
    prefixes = policy_prefixes(folder)
    averaged = [name for name in averaged_components(manifest) if averages and name in prefixes]
    if averages and prefixes and not averaged:
        raise no_averages(folder)
    for name, prefix in prefixes.items():
        if f"{name}/{WEIGHTS}" not in manifest["files"]:
            raise DamagedCheckpointError(f"{folder}: has no weights of {shown(name)}, a component of its policy")
        if problems := damages(folder, manifest, f"{name}/"):
            raise DamagedCheckpointError(bounded("\n".join(problems)))
        own = read_averages(folder / name) if name in averaged else read_tensors(folder / name / WEIGHTS)
        weights |= {prefix + key: tensor for key, tensor in own.items()}
    return weights


def no_averages(place: Path) -> ValueError:
    """Return the error for a source without averages of which `init_from.ema` asks for some."""
    return ValueError(f"ema: {place} has no averages of train.ema. Set it to false for the weights of training.")
