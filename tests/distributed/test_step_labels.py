"""The labels of steps, which the processes add up to see whether all make the same one."""

import pytest
import torch

from trainer.distributed.step_labels import LABEL_LENGTH, StepLabel

LABELS = [
    StepLabel(update, components)
    for update in (0, 1, 2, 10**9)
    for components in ((), ("actor",), ("critic",), ("actor", "critic"), ("critic", "actor"))
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("processes", [2, 3, 1000])
def test_each_process_sees_whether_one_makes_another_step(dtype, processes):
    for label in LABELS:
        numbers = label.numbers.to(dtype)
        assert numbers.shape == (LABEL_LENGTH,)
        assert label.is_everywhere(numbers * processes)
        for other in LABELS:
            if other != label:
                total = numbers * (processes - 1) + other.numbers.to(dtype)
                assert not label.is_everywhere(total)
                assert not other.is_everywhere(total)
