"""Whole tensors from the pieces of several processes, and pieces from whole tensors."""

import pytest
import torch
from processes import WorkerError
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from optimizer.state import gathered, shard_like

ON_TWO = {
    "uneven": ((2,), (5, 3), [Shard(0)]),
    "one row": ((2,), (1, 4), [Shard(0)]),
    "no row": ((2,), (0, 4), [Shard(0)]),
    "columns": ((2,), (2, 3), [Shard(1)]),
    "replicated": ((2,), (3,), [Replicate()]),
    "a number": ((2,), (), [Replicate()]),
    "hybrid of one replica": ((1, 2), (3, 2), [Replicate(), Shard(0)]),
    "hybrid of two": ((2, 1), (3, 2), [Replicate(), Shard(0)]),
}
ON_FOUR = {
    "fewer rows than ranks": ((4,), (3, 2), [Shard(0)]),
    "five rows": ((4,), (5, 2), [Shard(0)]),  # 2, 2, 1 and none
    "hybrid": ((2, 2), (3, 2), [Replicate(), Shard(0)]),
    "hybrid turned": ((2, 2), (3, 2), [Shard(0), Replicate()]),
    "rows twice": ((2, 2), (7, 2), [Shard(0), Shard(0)]),
    "rows and columns": ((2, 2), (3, 5), [Shard(0), Shard(1)]),
    "columns and rows": ((2, 2), (3, 5), [Shard(1), Shard(0)]),
}
DTYPES = [torch.bool, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.complex64, torch.float32]


def whole_of(shape, dtype=torch.float64):
    count = torch.Size(shape).numel()
    return (torch.arange(count) % 100 + 1).reshape(shape).to(dtype)


def sharded(mesh_shape, shape, placements, dtype=torch.float64):
    return distribute_tensor(whole_of(shape, dtype), init_device_mesh("cpu", mesh_shape), placements)


def gathered_by(cases, receiver):
    """Return the names of the tensors that a rank gets, and for each case whether it is the whole."""
    tensors = {name: sharded(*case) for name, case in cases.items()}
    found = gathered(tensors, receiver)
    if distributed.get_rank() != receiver:
        return {"names": list(found), **dict.fromkeys(cases, "sent")}
    return {"names": list(found), **{name: compared(found[name], tensors[name], cases[name][1]) for name in cases}}


def compared(found, tensor, shape):
    assert torch.equal(found, whole_of(shape))
    assert found.device.type == "cpu"
    assert not isinstance(found, DTensor)
    return "whole"


def cut_again(cases):
    for name, case in cases.items():
        like = sharded(*case)
        cut = shard_like(whole_of(case[1], torch.float32), like)
        assert cut.dtype == torch.float32, name
        assert (cut.shape, cut.placements) == (like.shape, like.placements), name
        assert cut.device_mesh == like.device_mesh, name
        assert torch.equal(cut.to_local(), like.to_local().float()), name
        assert torch.equal(cut.full_tensor(), whole_of(case[1], torch.float32)), name
    return True


@pytest.mark.parametrize("receiver", [0, 1])
def test_pieces_make_the_whole_on_one_rank(two_workers, receiver):
    results = two_workers.call(gathered_by, ON_TWO, receiver)
    assert results[receiver] == {"names": list(ON_TWO), **dict.fromkeys(ON_TWO, "whole")}
    assert results[1 - receiver]["names"] == []


def test_a_whole_tensor_is_cut_as_the_sharded_one(two_workers):
    assert two_workers.call(cut_again, ON_TWO) == [True, True]


@pytest.mark.slow
def test_pieces_of_two_mesh_dimensions_make_the_whole(four_workers):
    results = four_workers.call(gathered_by, ON_FOUR, 2)
    assert results[2] == {"names": list(ON_FOUR), **dict.fromkeys(ON_FOUR, "whole")}


@pytest.mark.slow
def test_a_whole_tensor_is_cut_along_two_mesh_dimensions(four_workers):
    assert all(four_workers.call(cut_again, ON_FOUR))


def in_one_bucket_each():
    """Gather with room for no second tensor in a bucket, in the order of the names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimizer.state.sharded_tensors._BUCKET_BYTES", 1)
        names = list(gathered({name: sharded(*case) for name, case in ON_TWO.items()}))
        return names, gathered_by(ON_TWO, 0)


def test_large_tensors_move_one_by_one(two_workers):
    first, second = two_workers.call(in_one_bucket_each)
    assert first == (list(ON_TWO), {"names": list(ON_TWO), **dict.fromkeys(ON_TWO, "whole")})
    assert second[0] == []


def of_every_type():
    tensors = {str(dtype): sharded((2,), (3, 1), [Shard(0)], dtype) for dtype in DTYPES}
    return [torch.equal(tensor, whole_of((3, 1), tensor.dtype)) for tensor in gathered(tensors).values()]


def test_values_of_every_type_are_moved(two_workers):
    assert two_workers.call(of_every_type) == [[True] * len(DTYPES), []]


def with_other_strides():
    mesh = init_device_mesh("cpu", (2,))
    tensor = distribute_tensor(whole_of((4, 3)).t(), mesh, [Shard(0)])
    found = gathered({"turned": tensor}).get("turned")
    cut = shard_like(whole_of((4, 3)).t(), tensor)
    strides = (cut.stride(), cut.to_local().stride()) == (tensor.stride(), tensor.to_local().stride())
    return strides and (
        found is None or (found.stride() == tensor.stride() and torch.equal(found, whole_of((4, 3)).t()))
    )


def test_strides_are_those_of_the_sharded_tensor(two_workers):
    assert two_workers.call(with_other_strides) == [True, True]


def with_plain_ones():
    plain, parameter = torch.ones(2), torch.nn.Parameter(sharded((2,), (3,), [Shard(0)]))
    found = gathered({"a": plain, "b": parameter, "c": plain}, rank=1)
    assert shard_like(plain, torch.zeros(2)) is plain
    return [found["a"] is plain, found["c"] is plain, found["b"].requires_grad] if found else []


def test_plain_tensors_pass_as_they_are_and_parameters_without_a_graph(two_workers):
    assert two_workers.call(with_plain_ones) == [[], [True, True, False]]


def partial_sum():
    gathered({"layer/loss": DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (2,)), [Partial()])})


def test_a_partial_sum_is_refused_by_name(two_workers):
    with pytest.raises(WorkerError, match=r"layer/loss: it is placed as Partial") as error:
        two_workers.call(partial_sum)
    assert len(error.value.failures) == 2


def cut_of_another_shape():
    shard_like(torch.ones(4), sharded((2,), (3,), [Shard(0)]))


def test_a_whole_tensor_of_another_shape_is_refused(two_workers):
    with pytest.raises(WorkerError, match=r"has shape \[4\], and the sharded one \[3\]"):
        two_workers.call(cut_of_another_shape)


def test_without_processes_plain_tensors_pass():
    plain = torch.ones(2)
    assert gathered({"a": plain})["a"] is plain
