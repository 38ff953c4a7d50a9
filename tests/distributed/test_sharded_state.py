"""The state of optimizers of sharded parameters: loaded from whole state, refused by name, written to files."""

import copy
import io
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from sample_lerobot_files import lerobots_files
from sample_shards import PARAMS, apart, built, network, sharded_network, trained, update, whole
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from optimizer import (
    NamedState,
    load_named_state,
    load_optimizer_state,
    named_state,
    save_optimizer_state,
)
from optimizer.state import unsavable_reason

FILES = ("optimizer_state.safetensors", "optimizer_param_groups.json")


def sums(folder):
    return {name: sha256((Path(folder) / name).read_bytes()).hexdigest() for name in FILES}


def message(function, *arguments, **options):
    """Return the class and the text of the error that a call raises."""
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def placements(optimizer):
    """Return the names of the entries that are sharded, and of those that are not."""
    entries = {
        (name, isinstance(value, DTensor))
        for of_one in optimizer.state.values()
        for name, value in of_one.items()
        if isinstance(value, torch.Tensor)
    }
    return [sorted(name for name, is_sharded in entries if is_sharded is wanted) for wanted in (True, False)]


def loaded_whole(key, way, folder):
    """Load the state of an unsharded optimizer into a sharded one, and train both on."""
    one, parts = network(), sharded_network()
    optimizer, other = trained(one, key), built(parts, key)
    distributed.barrier()
    if way == "files" and distributed.get_rank() == 0:
        save_optimizer_state(optimizer, folder)
    distributed.barrier()
    if way == "files":
        load_optimizer_state(other, folder)
    elif way == "names":
        load_named_state(other, named_state(optimizer))
    else:
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    parts.load_state_dict({name: cut(parts.get_parameter(name), value) for name, value in one.state_dict().items()})
    sharded = placements(other)
    bits = all(torch.equal(whole(value), of_one[name]) for of_one, name, value in entries(optimizer, other))
    for module, its in ((one, optimizer), (parts, other)):
        update(module, its, range(3, 6))
    lrs = [its.param_groups[0]["lr"] for its in (optimizer, other)]
    return {"sharded": sharded, "bits": bits, "apart": apart(one, parts), "lrs": lrs}


def cut(like, value):
    return distribute_tensor(value, like.device_mesh, like.placements)


def entries(optimizer, other):
    """Yield the entries of the first optimizer's parameters, and name and value of each of the second's."""
    pairs = [[its.state[p] for group in its.param_groups for p in group["params"]] for its in (optimizer, other)]
    for of_one, of_other in zip(*pairs, strict=True):
        assert of_one.keys() == of_other.keys()
        yield from ((of_one, name, value) for name, value in of_other.items() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("way", ["names", "files", "state dict"])
@pytest.mark.parametrize("key", PARAMS)
def test_whole_state_is_cut_into_shards_which_train_on_as_the_whole(two_workers, key, way, tmp_path):
    for report in two_workers.call(loaded_whole, key, way, tmp_path):
        assert report["bits"]
        assert report["sharded"][1] in (["step"], [])
        assert len(report["sharded"][0]) == 2
        assert report["apart"] < 1e-12
        assert report["lrs"][0] == report["lrs"][1]


def written_by_two(key, folder, names):
    """Write the state of a sharded optimizer, and return whether the files were there when each rank continued."""
    module = sharded_network()
    optimizer = built(module, key)
    update(module, optimizer, range(3))
    target = optimizer if names is None else dict.fromkeys(names, optimizer)
    save_optimizer_state(target, folder)
    return all((Path(folder) / name / file).is_file() for name in names or [""] for file in FILES)


def written_again(key, folder, target):
    """Load files into a sharded optimizer, and write them again."""
    optimizer = load_optimizer_state(built(sharded_network(), key), folder)
    save_optimizer_state(optimizer, target)
    return optimizer.scheduler.last_epoch


@pytest.mark.parametrize("key", PARAMS)
def test_files_of_two_processes_load_into_one_and_two_and_are_equal_to_the_byte(two_workers, key, tmp_path):
    assert two_workers.call(written_by_two, key, tmp_path / "two", None) == [True, True]
    optimizer = load_optimizer_state(built(network(), key), tmp_path / "two")
    save_optimizer_state(optimizer, tmp_path / "one")
    assert two_workers.call(written_again, key, tmp_path / "one", tmp_path / "again") == [3, 3]
    assert sums(tmp_path / "two") == sums(tmp_path / "one") == sums(tmp_path / "again")
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == sorted(FILES)


@pytest.mark.slow
def test_files_of_two_processes_load_into_four(two_workers, four_workers, tmp_path):
    two_workers.call(written_by_two, "adamw", tmp_path / "two", None)
    assert four_workers.call(written_again, "adamw", tmp_path / "two", tmp_path / "four") == [3] * 4
    assert sums(tmp_path / "two") == sums(tmp_path / "four")


def hybrid_written_again(folder, target):
    module = sharded_network(mesh_shape=(2, 2))
    save_optimizer_state(load_optimizer_state(built(module), folder), target)


@pytest.mark.slow
def test_files_load_into_a_mesh_of_replicas_and_shards(two_workers, four_workers, tmp_path):
    two_workers.call(written_by_two, "adamw", tmp_path / "two", None)
    four_workers.call(hybrid_written_again, tmp_path / "two", tmp_path / "hybrid")
    assert sums(tmp_path / "two") == sums(tmp_path / "hybrid")


def test_several_optimizers_are_written_together(two_workers, tmp_path):
    assert two_workers.call(written_by_two, "adamw", tmp_path, ["actor", "critic"]) == [True, True]
    optimizers = {name: built(network()) for name in ("actor", "critic")}
    load_optimizer_state(optimizers, tmp_path)
    assert [optimizer.scheduler.last_epoch for optimizer in optimizers.values()] == [3, 3]


def written_in_vain(folder):
    """Save where one folder is a file; return the error of each rank."""
    module = sharded_network()
    optimizer = trained(module)
    return message(save_optimizer_state, {"actor": optimizer, "critic": optimizer}, folder)


def test_a_failure_of_the_rank_that_writes_is_raised_on_all_and_leaves_the_files(two_workers, tmp_path):
    two_workers.call(written_by_two, "adamw", tmp_path, ["actor"])
    before = sums(tmp_path / "actor")
    (tmp_path / "critic").write_text("in the way")
    first, second = two_workers.call(written_in_vain, tmp_path)
    assert first.startswith("FileExistsError: ")
    assert second.startswith("OSError: rank 0: FileExistsError: ")
    assert "critic" in second
    assert sums(tmp_path / "actor") == before
    assert len(list((tmp_path / "actor").iterdir())) == 2


def without_names(folder):
    """Write the state of a sharded optimizer that knows no names, and load it."""
    parts = sharded_network()
    optimizers = [torch.optim.AdamW(list(parts.parameters()), lr=0.01, foreach=True) for _ in range(2)]
    update(parts, optimizers[0], range(2))
    save_optimizer_state(optimizers[0], folder)
    load_optimizer_state(optimizers[1], folder)
    return all(torch.equal(whole(value), whole(of_one[name])) for of_one, name, value in entries(*optimizers))


def test_state_by_position_is_written_and_loaded(two_workers, tmp_path):
    assert two_workers.call(without_names, tmp_path) == [True, True]
    optimizer = torch.optim.AdamW(network().parameters(), lr=0.01)
    load_optimizer_state(optimizer, tmp_path)
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {2}


def of_lerobot(folder):
    """Load LeRobot's files into a sharded optimizer with a schedule and into a plain one; return the state of both."""
    found = []
    for with_schedule in (True, False):
        parts = sharded_network()
        plain = torch.optim.AdamW(parts.parameters(), lr=0.01, foreach=True)
        optimizer = load_optimizer_state(built(parts, no_decay=False) if with_schedule else plain, folder)
        update(parts, optimizer, range(1))
        found.append((placements(optimizer), {int(entry["step"]) for entry in optimizer.state.values()}))
    return found


def test_files_of_lerobot_are_cut_into_shards(two_workers, tmp_path):
    module = network()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    update(module, optimizer, range(3))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    lerobots_files(optimizer, scheduler, tmp_path)
    expected = ([["exp_avg", "exp_avg_sq"], ["step"]], {4})
    assert two_workers.call(of_lerobot, tmp_path) == [[expected, expected]] * 2


def refusals():
    """Return the error of loading state that does not fit, and whether the optimizers are as before."""
    one, parts = network(), sharded_network()
    optimizer, other = trained(one), trained(parts)
    before = [copy.deepcopy(its.state_dict()) for its in (optimizer, other)]
    saved = named_state(other)
    turned = {**saved.tensors, "0.weight/exp_avg": of_columns(saved.tensors["0.weight/exp_avg"])}
    short = {**named_state(optimizer).tensors, "0.weight/exp_avg": torch.zeros(7, 3)}
    raised = {
        "sharded into whole": message(load_named_state, optimizer, saved),
        "state dict into whole": message(optimizer.load_state_dict, other.state_dict()),
        "columns into rows": message(load_named_state, other, NamedState(turned, saved.values)),
        "another shape": message(load_named_state, other, NamedState(short, saved.values)),
    }
    after = [its.state_dict() for its in (optimizer, other)]
    return raised, [equal_states(*pair) for pair in zip(before, after, strict=True)]


def of_columns(tensor):
    return distribute_tensor(torch.zeros(tensor.shape, dtype=tensor.dtype), tensor.device_mesh, [Shard(1)])


def equal_states(first, second):
    return first["scheduler"] == second["scheduler"] and all(
        torch.equal(whole(value), whole(second["state"][key][name]))
        for key, of_one in first["state"].items()
        for name, value in of_one.items()
    )


def test_state_that_does_not_fit_is_refused_by_name_before_anything_changes(two_workers):
    for raised, unchanged in two_workers.call(refusals):
        for case in ("sharded into whole", "state dict into whole"):
            assert raised[case].startswith("StateMismatchError"), raised[case]
            assert "0.weight: exp_avg is sharded, and its parameter is not" in raised[case]
            assert "save_optimizer_state" in raised[case]
        assert "0.weight: exp_avg is placed as (Shard(dim=1),)" in raised["columns into rows"]
        assert "0.weight: exp_avg has shape [7, 3], and its parameter [7, 4]" in raised["another shape"]
        assert unchanged == [True, True]


def wide_moments():
    """Load moments that are wider than their parameters; return their types."""
    optimizer = trained(network(torch.bfloat16), use_cautious_optimizer=True)
    saved = named_state(optimizer)
    tensors = {name: tensor.float() for name, tensor in saved.tensors.items()}
    parts = sharded_network(torch.bfloat16)
    other = built(parts, use_cautious_optimizer=True)
    load_named_state(other, NamedState(tensors, saved.values))
    moments = [entry["exp_avg"] for entry in other.state.values()]
    return [(str(moment.dtype), isinstance(moment, DTensor)) for moment in moments]


def test_moments_wider_than_their_parameters_keep_their_type(two_workers):
    assert two_workers.call(wide_moments) == [[("torch.float32", True)] * 4] * 2


def copied_and_pickled():
    """Return whether copies of a sharded optimizer hold its state."""
    parts = sharded_network()
    optimizer = trained(parts)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    unpickled = built(sharded_network())
    unpickled.load_state_dict(torch.load(buffer, weights_only=False))
    twins = [copy.deepcopy(optimizer), unpickled]
    return [
        twin.scheduler.last_epoch == 3
        and all(torch.equal(whole(value), whole(of_one[name])) for of_one, name, value in entries(optimizer, twin))
        for twin in twins
    ]


def test_copies_of_a_sharded_optimizer_hold_its_state(two_workers):
    assert two_workers.call(copied_and_pickled) == [[True, True]] * 2


def savable():
    """Return why a shard cannot be saved, of three and of one row."""
    mesh = init_device_mesh("cpu", (2,))
    return [unsavable_reason("x", nn.Parameter(distribute_tensor(torch.ones(n), mesh, [Shard(0)]))) for n in (3, 1)]


def test_a_shard_can_be_saved_also_an_empty_one(two_workers):
    assert two_workers.call(savable) == [[None, None]] * 2
