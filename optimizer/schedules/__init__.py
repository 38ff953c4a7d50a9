"""The built-in schedules, by family. Importing this package registers all of them."""

from . import (  # noqa: F401 they register their schedules
    basic,
    composition,
    cycles,
    decays,
    hugging_face,
    lerobot,
    lightning,
    plateau,
    pytorch,
    transformers,
)
from .sampling import sample_steps

__all__ = ["sample_steps"]
