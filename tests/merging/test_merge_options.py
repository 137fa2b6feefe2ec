"""What one may say to `merge` beside the models: method, weights, base, dtype, keep, kinds."""

import numpy as np
import pytest
import torch
from torch import nn

import conjoin
from conjoin.errors import InputError, MethodError, MismatchError
from conjoin.merging import merge


def _state(**tensors):
    return {name: torch.as_tensor(value) for name, value in tensors.items()}


# Arguments ---------------------------------------------------------------------------------------


def test_the_empty_list_and_single_models():
    with pytest.raises(InputError, match="empty list"):
        merge([])
    for single in (nn.Linear(1, 1), _state(w=[1.0]), "a.safetensors"):
        with pytest.raises(InputError, match=r"expected a list of models, got one .*\[a, b\]"):
            merge(single)


def test_parameters_instead_of_a_module():
    a = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"generator.*pass the module itself"):
        merge([a.parameters(), a.parameters()])
    with pytest.raises(InputError, match="not Parameter"):
        merge(a.parameters())


def test_mixed_kinds_of_models(tmp_path):
    a = nn.Linear(1, 1)
    path = conjoin.save(a, tmp_path / "a.safetensors")
    for models in ([a, a.state_dict()], [a, path], [a.state_dict(), path]):
        with pytest.raises(InputError, match="different kinds: .* and "):
            merge(models)


def test_unknown_methods_and_parameters_show_the_closest():
    models = [_state(w=[1.0]), _state(w=[2.0])]
    with pytest.raises(MethodError, match=r"no method 'maen'; did you mean 'mean'\?.*sum, mean"):
        merge(models, "maen")
    with pytest.raises(MethodError, match=r"'normalise'; did you mean 'normalize'\?"):
        merge(models, "linear", parameters={"normalise": False})
    with pytest.raises(InputError, match="method is a name, a Method or a function"):
        merge(models, 3)


def test_weights():
    models = [_state(w=[1.0]), _state(w=[2.0])]
    with pytest.raises(MethodError, match="one weight per model, 2; got 3"):
        merge(models, "linear", weights=[1, 2, 3])
    with pytest.raises(MethodError, match=r"mean takes no weights; .linear. does"):
        merge(models, weights=[1, 2])
    for weights in ([1, -1], [0, 0], [0.1 + 0.2, -0.3]):
        with pytest.raises(MethodError, match="sum to zero"):
            merge(models, "linear", weights=weights)
    assert merge(models, "linear", weights=[0, 1])["w"].item() == 2
    unnormalized = merge(models, "linear", weights=[1, -1], parameters={"normalize": False})
    assert unnormalized["w"].item() == -1


def test_linear_without_weights_is_the_mean():
    models = [_state(w=[1.0]), _state(w=[2.0])]
    assert merge(models, "linear")["w"].item() == 1.5


@pytest.mark.parametrize(
    "wrap",
    [tuple, np.array, torch.tensor],
    ids=["tuple", "numpy", "torch"],
)
def test_weights_of_any_array_type(wrap):
    models = [_state(w=[1.0]), _state(w=[5.0])]
    assert merge(models, "linear", weights=wrap([3.0, 1.0]))["w"].item() == 2


def test_a_base_for_a_method_that_uses_none():
    state = _state(w=[1.0])
    with pytest.raises(MethodError, match="mean uses no base"):
        merge([state], base=state)


def test_dtype_of_modules_is_left_to_torch():
    with pytest.raises(InputError, match=r"\.to\(dtype\)"):
        merge([nn.Linear(1, 1)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tensors: torch.stack(tensors), r"shape \[2, 2\] for 'w', whose shape is \[2\]"),
        (lambda tensors: tensors[0].numpy(), "gave ndarray for 'w', not a tensor"),
        (lambda tensors: None, "gave NoneType for 'w', not a tensor"),
        (lambda tensors: 1.0, "gave float for 'w', not a tensor"),
    ],
)
def test_callables_that_give_something_else(function, message):
    with pytest.raises(MethodError, match=message):
        merge([_state(w=[1.0, 2.0]), _state(w=[1.0, 2.0])], function)


def test_callables_get_float32_and_only_weights(net):
    seen = []

    def note(tensors):
        seen.append([(tensor.dtype, tensor.requires_grad) for tensor in tensors])
        return tensors[0]

    merge([net(0).half(), net(1).half()], note)
    assert len(seen) == 6  # conv, norm: 2 each; the tied weight once; the decoder's bias
    assert {pair for pairs in seen for pair in pairs} == {(torch.float32, False)}


# Dtypes of mappings ------------------------------------------------------------------------------


def test_dtype_changes_weights_and_statistics_only():
    state = _state(w=[1.0], running_mean=[1.0], num_batches_tracked=3, i=[1], inv_freq=[1.0])
    merged = merge([state, state], dtype=torch.float64)
    assert {name: tensor.dtype for name, tensor in merged.items()} == {
        "w": torch.float64,
        "running_mean": torch.float64,
        "num_batches_tracked": torch.int64,
        "i": torch.int64,
        "inv_freq": torch.float32,
    }


def test_dtype_makes_different_dtypes_one():
    a = {"w": torch.tensor([1.0], dtype=torch.float16)}
    b = {"w": torch.tensor([2.0], dtype=torch.float64)}
    merged = merge([a, b], dtype=torch.bfloat16)
    assert (merged["w"].item(), merged["w"].dtype) == (1.5, torch.bfloat16)


# Kept and relabelled -----------------------------------------------------------------------------


def test_keep_takes_tensors_unchanged(net, bits):
    a, b = net(0, 1), net(1, 2)
    merged = merge([a, b], keep={"conv.*": 1, "conv.bias": 0, "norm.num_*": 0})
    assert bits(merged.conv.weight) == bits(b.conv.weight)
    assert bits(merged.conv.bias) == bits(b.conv.bias)  # the first pattern wins
    assert merged.norm.num_batches_tracked == 1


def test_keep_that_names_nothing():
    models = [_state(**{"head.weight": [1.0]}), _state(**{"head.weight": [2.0]})]
    with pytest.raises(InputError, match=r"'haed\.\*' matches none.*'head.weight'"):
        merge(models, keep={"haed.*": 0})
    for number in (2, -1, "0"):
        with pytest.raises(InputError, match="names no model; they are 0 to 1"):
            merge(models, keep={"head.*": number})


def test_kept_heads_may_differ_in_shape_and_name():
    a = _state(**{"trunk": [0.0, 2.0], "head.w": [1.0], "mine": [7.0]})
    b = _state(**{"trunk": [2.0, 4.0], "head.w": [1.0, 2.0], "yours": [8.0]})
    with pytest.raises(MismatchError, match="keep="):
        merge([a, b])
    merged = merge([a, b], keep={"head.*": 1, "mine": 0, "yours": 1})
    assert {name: tensor.tolist() for name, tensor in merged.items()} == {
        "trunk": [1, 3],
        "head.w": [1, 2],
        "mine": [7],
        "yours": [8],
    }
    assert list(merge([a, b], keep={"head.*": 0, "mine": 0, "yours": 1}))[:3] == list(a)


def test_a_kept_head_that_the_first_module_cannot_hold():
    small, large = nn.Linear(2, 1), nn.Linear(2, 3)
    with pytest.raises(InputError, match=r"'weight' is \[3, 2\], but the first model.* has \[1, 2"):
        merge([small, large], keep={"*": 1})
    assert torch.equal(merge([large, small], keep={"*": 0}).weight, large.weight)
    with pytest.raises(InputError, match=r"'bias' is \[1\].*no such tensor"):
        merge([nn.Linear(2, 1, bias=False), small], keep={"bias": 1})


def test_kinds_override():
    a, b = _state(scale=[1.0], inv_freq=[2.0]), _state(scale=[3.0], inv_freq=[4.0])
    with pytest.raises(MismatchError, match="'inv_freq' is a constant"):
        merge([a, b])
    merged = merge([a, b], "sum", kinds={"inv_*": "weight"})
    assert merged["inv_freq"].item() == 6
    merged = merge([a, b], "sum", kinds={"scale": "statistic", "inv_freq": "counter"})
    assert (merged["scale"].item(), merged["inv_freq"].item()) == (2, 4)
    with pytest.raises(InputError, match="unknown kind 'weights'"):
        merge([a, b], kinds={"scale": "weights"})
    with pytest.raises(InputError, match="matches none"):
        merge([a, b], kinds={"scael": "weight"})


@pytest.mark.parametrize(
    ("method", "count", "given", "message"),
    [
        ("slerp", 3, {}, "exactly 2 models, and here are 3"),
        ("model_stock", 1, {"base": {"w": torch.zeros(2)}}, "at least 2 models, and here are 1"),
        (
            "ties",
            3,
            {"base": {"w": torch.zeros(2)}, "parameters": {"density": [0.5, 0.5]}},
            "density must be one number, or one per model: 3, not 2",
        ),
    ],
)
def test_a_number_of_models_that_does_not_fit_is_seen_at_once(method, count, given, message):
    models = [{"w": torch.ones(2)}] * count
    with pytest.raises(MethodError, match=message):
        merge(models, method, **given)
