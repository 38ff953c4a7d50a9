"""The weights of a whole policy, joined from the folders of its components in a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from optimizer.config import bounded, shown

from ..run_layout import EMA_TENSORS, WEIGHTS
from ..runtime.files import DamagedCheckpointError, read_tensors
from .contents import expected_content, read_averages, read_progress
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
        averages: Whether to take the averages of `train.ema` where there are some.

    Raises:
        ValueError: No component of the policy has averages.
        DamagedCheckpointError: A file is missing, or not as it was written.
    """
    manifest = read_manifest(folder)
    weights: dict[str, Tensor] = {}
    has_averages = False
    for name, prefix in policy_prefixes(folder).items():
        if f"{name}/{WEIGHTS}" not in manifest["files"]:
            raise DamagedCheckpointError(f"{folder}: has no weights of {shown(name)}, a component of its policy")
        if problems := damages(folder, manifest, f"{name}/"):
            raise DamagedCheckpointError(bounded("\n".join(problems)))
        averaged = averages and f"{name}/{EMA_TENSORS}" in manifest["files"]
        tensors = read_averages(folder / name) if averaged else read_tensors(folder / name / WEIGHTS)
        weights |= {prefix + key: tensor for key, tensor in tensors.items()}
        has_averages = has_averages or averaged
    if averages and weights and not has_averages:
        raise ValueError(f"ema: {folder} has no averages of train.ema. Set it to false for the weights of training.")
    return weights
