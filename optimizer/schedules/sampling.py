"""Which updates of a run to look at when there are too many to look at each."""

import math


def sample_steps(total: int, most: int = 2000) -> list[int]:
    """Return at most about `most` of the updates 0 … total - 1, the first and the last included."""
    return sorted({*range(0, total, max(1, math.ceil(total / most))), total - 1})
