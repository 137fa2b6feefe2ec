"""Weights and parameters by pattern: each tensor is as in a merge with what is said for it."""

from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conjoin import merge, save
from conjoin.errors import InputError, MethodError
from conjoin.recipes import make_plan, recipe_from

few = settings(deadline=None, max_examples=60)
NAMES = ["body.0.weight", "body.0.bias", "body.1.weight", "head.weight"]
PATTERNS = ["*", "body.*", "*.weight", "head.weight", "body.?.weight"]


def states(count):
    generator = torch.Generator().manual_seed(count)
    return [{n: torch.randn(4, 3, generator=generator) for n in NAMES} for _ in range(count)]


def tables(values):
    return st.dictionaries(st.sampled_from(PATTERNS), values, min_size=1)


def said(table, name):
    return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), None)


numbers = st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=3, max_size=3)


@few
@given(tables(numbers), tables(st.booleans()) | st.booleans() | st.none())
def test_each_tensor_is_as_if_all_had_its_weights_and_parameters(weights, normalize):
    models = states(3)
    given = {} if normalize is None else {"normalize": normalize}
    merged = merge(models, "linear", weights=weights, parameters=given)
    for name in NAMES:
        own = said(normalize, name) if isinstance(normalize, dict) else normalize
        alone = merge(
            models,
            "linear",
            weights=said(weights, name),
            parameters={} if own is None else {"normalize": own},
        )
        assert torch.equal(merged[name], alone[name])


@few
@given(tables(st.sampled_from([0.0, 0.3, 1.0])))
def test_parameters_are_those_of_a_recipe(tmp_path_factory, t):
    folder = tmp_path_factory.mktemp("models")
    a, b = (save(state, folder / f"{n}.safetensors") for n, state in enumerate(states(2)))
    recipe = recipe_from({"method": "slerp", "models": [str(a), str(b)], "parameters": {"t": t}})
    written = make_plan(recipe).merged
    merged = merge([a, b], "slerp", parameters={"t": t})
    assert all(torch.equal(merged[name], written[name]) for name in NAMES)


def test_modules_and_their_statistics():
    def network():
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

    a, b = network(), network()
    with torch.no_grad():
        b[1].running_mean.fill_(4.0)
    merged = merge([a, b], "linear", weights={"1.*": [1, 3], "2.*": [0, 1]})
    assert torch.equal(merged[0].weight, merge([a, b])[0].weight)  # equal weights
    assert torch.equal(merged[2].weight, b[2].weight)
    assert merged[1].running_mean.tolist() == [3.0] * 3


def test_a_value_for_each_model_may_be_by_pattern():
    base, a, b = states(3)
    both = {"body.*": [0.2, 0.8], "*": 0.5}
    merged = merge([a, b], "ties", base=base, parameters={"density": both, "per": "tensor"})
    for name, density in (("body.0.bias", [0.2, 0.8]), ("head.weight", 0.5)):
        parameters = {"density": density, "per": "tensor"}
        alone = merge([a, b], "ties", base=base, parameters=parameters)
        assert torch.equal(merged[name], alone[name])


def test_a_threshold_over_the_whole_model_is_one():
    base, a, b = states(3)
    with pytest.raises(MethodError, match="the same for all tensors"):
        merge([a, b], "ties", base=base, parameters={"density": {"body.*": 0.2, "*": 0.5}})


def test_what_cannot_be_is_told():
    models = states(2)

    def refused(kind, words, **given):
        with pytest.raises(kind, match=words):
            merge(models, "linear", **given)

    refused(InputError, "'haed.\\*' matches none of .* names.*head", weights={"haed.*": [1, 1]})
    refused(MethodError, r"per model, 2; got 3 in weights\['\*'\]", weights={"*": [1, 1, 1]})
    refused(InputError, r"weights has to be a list .* or such lists by pattern", weights={"*": 1})
    refused(InputError, r"weights\['\*'\] has to be a list of numbers", weights={"*": "1"})
    refused(InputError, "weights by pattern has no pattern", weights={})
    refused(InputError, "normalize by pattern has no pattern", parameters={"normalize": {}})
    refused(MethodError, "no parameter 'nromalize'", parameters={"nromalize": {"*": True}})
    refused(
        MethodError,
        "for 'body.1.weight': linear: normalize .*'yes'",
        parameters={"normalize": {"body.0.*": True, "*": "yes"}},
    )
    with pytest.raises(MethodError, match="mean takes no weights"):
        merge(models, "mean", weights={"*": [1, 1]})


def test_a_tie_is_one_tensor_with_one_name():
    def network():
        made = nn.ModuleDict({"one": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
        made["other"].weight = made["one"].weight
        return made

    a, b = network(), network()
    merged = merge([a, b], "linear", weights={"one.*": [0, 1]})
    assert torch.equal(merged["other"].weight, b["one"].weight)
    with pytest.raises(InputError, match=r"'other.weight', which is tied to 'one.weight'"):
        merge([a, b], "linear", weights={"other.weight": [0, 1]})
