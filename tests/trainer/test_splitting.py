"""A module taken apart into components: names, state, modes and devices."""

import copy

import pytest
import torch
from sample_policies import PARTS, SmallPolicy
from torch import nn

from trainer.interfaces.component import Components, keep_in_eval, train_mode
from trainer.splitting.parts import in_model_order, prefixes, split, whole_module
from trainer.splitting.share import Share


def taken_apart(module, parts):
    return split(module, {name: [text] if isinstance(text, str) else text for name, text in parts.items()})


def joined(components):
    return {
        prefixes(components)[name] + key: value
        for name, component in components.items()
        for key, value in component.state_dict().items()
    }


class Odd(nn.Module):
    """Names that collide with attributes of modules, parameters beside modules, and a list."""

    def __init__(self):
        super().__init__()
        self.whole = nn.Linear(2, 2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)])
        self._source, self.alone = nn.Linear(2, 2), nn.Parameter(torch.ones(2))
        self.absent = None
        self.register_module("nothing", None)
        self.register_buffer("count", torch.zeros(1))


LAYOUTS = {
    "two parts": (SmallPolicy, PARTS),
    "a parameter": (SmallPolicy, {"token": "model.token"}),
    "all submodules and parameters": (SmallPolicy, {"all": ["model.*"]}),
    "the container itself": (SmallPolicy, {"all": "model"}),
    "items of a list": (Odd, {"first": "layers.0", "others": ["layers.[12]", "alone"]}),
    "names of attributes": (Odd, {"one": ["whole", "_source"]}),
    "everything one by one": (Odd, {"one": "whole", "two": "_source", "three": "layers", "four": "alone"}),
}


@pytest.mark.parametrize(("cls", "parts"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_state_dicts_of_the_components_join_to_that_of_the_whole(cls, parts):
    whole = cls()
    components = taken_apart(whole, parts)
    state = joined(components)
    assert list(components) == ["policy", *parts]
    assert state.keys() == whole.state_dict().keys()
    assert all(state[name] is value or torch.equal(state[name], value) for name, value in whole.state_dict().items())
    assert sum(len(component.state_dict()) for component in components.values()) == len(state)
    assert in_model_order(reversed(list(components.values()))) == list(whole.parameters())


def test_a_part_of_one_submodule_is_that_submodule_and_others_keep_the_names_of_the_whole():
    whole = SmallPolicy()
    components = taken_apart(whole, PARTS)
    assert components["backbone"] is whole.model.backbone
    assert list(components["vae"].state_dict()) == [
        "model.vae_scale",
        "model.vae_encoder.weight",
        "model.vae_encoder.bias",
    ]
    assert "model.offset" in components["policy"].state_dict()
    assert whole_module(components["vae"]) is whole_module(components["policy"]) is whole
    assert prefixes(components) == {"policy": "", "backbone": "model.backbone.", "vae": ""}


def test_a_share_has_the_methods_and_attributes_of_the_whole():
    whole = SmallPolicy(scale=3.0)
    share = taken_apart(whole, PARTS)["policy"]
    assert share.scale == 3.0
    assert share.model.backbone is whole.model.backbone
    with pytest.raises(AttributeError, match="SmallPolicy"):
        _ = share.no_such_thing
    copied = copy.deepcopy(share)
    assert torch.equal(copied.model.head.weight, share.model.head.weight)


def test_a_loaded_share_changes_the_whole():
    whole = SmallPolicy()
    share = taken_apart(whole, PARTS)["vae"]
    share.load_state_dict({name: torch.full_like(value, 7.0) for name, value in share.state_dict().items()})
    assert (whole.model.vae_scale == 7).all()
    assert (whole.model.vae_encoder.weight == 7).all()
    assert not (whole.model.token == 7).any()


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_whole_has_the_type_that_all_its_components_are_moved_to(overwrite):
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    try:
        whole = SmallPolicy()
        for component in taken_apart(whole, {**PARTS, "token": "model.token"}).values():
            component.to(torch.float64)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    tensors = [*whole.named_parameters(), *whole.named_buffers()]
    assert {name: tensor.dtype for name, tensor in tensors if tensor.is_floating_point()} == dict.fromkeys(
        [name for name, tensor in tensors if tensor.is_floating_point()], torch.float64
    )
    batch = {"x": torch.ones(3, 4, dtype=torch.float64), "y": torch.ones(3, 4, dtype=torch.float64)}
    assert whole(batch)[0].dtype == torch.float64


REFUSED = {
    "nothing": ({"a": ["model.bakbone"]}, "a: 'model.bakbone' matches no submodule or parameter.*'model.backbone'"),
    "the same twice": ({"a": ["model.token"], "b": ["model.t*"]}, "b: 'model.token' is claimed by 'a' too"),
    "inside another": ({"a": ["model"], "b": ["model.head"]}, "b: 'model.head' is claimed by 'a' too, with 'model'"),
    "around another": ({"b": ["model.head"], "a": ["model"]}, "b: 'model.head' is claimed by 'a' too, with 'model'"),
    "no parameters": ({"a": ["model.dropout"]}, "a: has no parameters: model.dropout"),
}


@pytest.mark.parametrize(("parts", "message"), REFUSED.values(), ids=REFUSED)
def test_parts_that_do_not_fit_are_refused_with_their_names(parts, message):
    with pytest.raises(ValueError, match=message):
        split(SmallPolicy(), parts)


def test_parameters_that_two_components_would_share_are_refused_with_both_names():
    whole = SmallPolicy()
    whole.model.vae_encoder.weight = whole.model.head.weight
    message = "vae: its parameter 'model.vae_encoder.weight' is also 'model.head.weight' of policy"
    with pytest.raises(ValueError, match=message):
        taken_apart(whole, PARTS)
    both = taken_apart(whole, {"both": ["model.vae_encoder", "model.head"]})
    assert joined(both).keys() == whole.state_dict().keys()


class Counting(SmallPolicy):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


def test_a_module_with_a_state_that_cannot_be_joined_is_refused():
    with pytest.raises(
        ValueError, match=r"backbone: takes .* the policy itself, whose class Counting overrides get_ext"
    ):
        taken_apart(Counting(), PARTS)
    hooked = SmallPolicy()
    hooked.model.register_state_dict_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="'model', whose class Inner has hooks on its state"):
        taken_apart(hooked, PARTS)
    assert taken_apart(hooked, {"all": "model"})["all"] is hooked.model


def in_train_mode(whole):
    return {name or "whole" for name, module in whole.named_modules() if module.training}


def test_modes_follow_the_components_that_train():
    whole = SmallPolicy()
    components = Components(taken_apart(whole, PARTS), {})
    train_mode(components)
    assert in_train_mode(whole) == {name or "whole" for name, _ in whole.named_modules()}
    components.eval()
    assert in_train_mode(whole) == set()
    components["policy"].requires_grad_(False)
    components["backbone"].requires_grad_(False)
    train_mode(components)
    assert in_train_mode(whole) == {"whole", "model", "model.vae_encoder"}  # the containers of a share that trains
    components["vae"].requires_grad_(False)
    components["backbone"].requires_grad_(True)
    train_mode(components)
    assert {"whole", "model", "model.backbone.1"} <= in_train_mode(whole)  # of a part that is one submodule
    assert not in_train_mode(whole) & {"model.head", "model.dropout", "model.vae_encoder"}


def test_a_rest_without_parameters_is_in_train_mode():
    whole = SmallPolicy()
    parts = {"one": ["model.backbone", "model.head", "model.norm"], "two": ["model.vae*", "model.token"]}
    components = Components(taken_apart(whole, parts), {})
    assert not list(components["policy"].parameters())
    train_mode(components)
    assert whole.model.dropout.training
    keep_in_eval(components["policy"])
    train_mode(components)
    assert not whole.model.dropout.training
    assert whole.model.training


class Stubborn(SmallPolicy):
    """A class that keeps its BatchNorm in eval mode."""

    def train(self, mode=True):
        super().train(mode)
        self.model.backbone[1].eval()
        return self


def test_the_train_of_a_class_that_was_taken_apart_is_called():
    whole = Stubborn()
    components = Components(taken_apart(whole, {"vae": "model.vae_encoder"}), {})
    components["vae"].requires_grad_(False)
    train_mode(components)
    assert "model.backbone.1" not in in_train_mode(whole)
    assert "model.vae_encoder" not in in_train_mode(whole)
    assert {"whole", "model", "model.backbone.0"} <= in_train_mode(whole)
    assert isinstance(components["policy"], Share)
