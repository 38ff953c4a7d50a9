"""The search for values that are not finite finds them in every type, and nothing else."""

import pytest
import torch

from trainer.loop.nonfinite import first_nonfinite, has_nonfinite

INF, NAN = float("inf"), float("nan")
LARGE = 3e38
"""Two of them are more than float32 holds: their sum is infinite."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize(
    ("values", "with_nan", "with_infinity"),
    [
        ([1.0, -2.0], False, False),
        ([], False, False),
        ([LARGE] * 8, False, False),
        ([1.0, NAN], True, True),
        ([1.0, INF], False, True),
        ([INF, -INF], False, True),
        ([-INF, NAN], True, True),
    ],
)
def test_nan_and_infinity_are_found(values, with_nan, with_infinity, dtype):
    tensor = torch.tensor(values, dtype=dtype)
    for form in (tensor, tensor.expand(3, -1).t(), tensor.conj() if dtype.is_complex else -tensor):
        assert has_nonfinite(form, infinities_too=False) == with_nan
        assert has_nonfinite(form, infinities_too=True) == with_infinity
        assert (first_nonfinite([("a", form)]) is not None) == with_infinity


def test_a_tensor_with_the_negative_bit_is_searched():
    negated = torch.imag(torch.conj(torch.tensor([complex(1, 2), complex(3, INF)])))
    assert negated.is_neg()
    assert not has_nonfinite(negated[:1], infinities_too=True)
    assert has_nonfinite(negated, infinities_too=True)


def test_the_first_of_several_is_named_with_its_count():
    tensors = [("fine", torch.ones(4)), ("none", None), ("whole", torch.ones(2, dtype=torch.int64))]
    found = [*tensors, ("bad", torch.tensor([NAN, 1.0, INF])), ("worse", torch.tensor([NAN]))]
    assert first_nonfinite(tensors) is None
    assert first_nonfinite(found) == "bad (2 of 3 values)"
