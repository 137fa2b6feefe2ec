"""Merging modules and mappings: what comes back, what stays, and arguments that cannot be used."""

import copy

import pytest
import torch
from torch import nn

import conjoin
from conjoin.errors import CheckpointError, MismatchError, NonFiniteError
from conjoin.merging import POOLED, merge


def _state(**tensors):
    return {name: torch.as_tensor(value) for name, value in tensors.items()}


# Modules -----------------------------------------------------------------------------------------


def test_every_tensor_of_a_module_by_its_kind(net):
    a, b = net(0, steps=2), net(1, steps=5)
    merged = merge([a, b])
    for name in ("conv.weight", "conv.bias", "norm.weight", "encoder.weight", "decoder.bias"):
        mean = (a.state_dict()[name].double() + b.state_dict()[name].double()) / 2
        torch.testing.assert_close(merged.state_dict()[name], mean.float(), rtol=1e-6, atol=0)
    assert merged.norm.num_batches_tracked == 5  # the maximum, not 3.5
    assert merged.mask.tolist() == [1, 0]
    assert merged.index.tolist() == [3, 1, 2]
    assert merged.cache.tolist() == [0, 0]  # not persistent: of the first


def test_counters_take_the_maximum_wherever_it_is(net):
    nets = [net(0, 1), net(1, 4), net(2, 2)]
    assert merge(nets, "sum").norm.num_batches_tracked == 4
    assert merge(nets[::-1], "linear", weights=[1, -1, 1]).norm.num_batches_tracked == 4


def test_the_result_is_a_new_module_like_the_first(net):
    a, b = net(0, 1), net(1, 2)
    a.conv.weight.requires_grad_(False)
    a.eval()
    a.norm.train()
    b.train()
    merged = merge([a, b])
    assert type(merged) is type(a)
    assert merged is not a
    assert {n: p.requires_grad for n, p in merged.named_parameters()} == {
        n: p.requires_grad for n, p in a.named_parameters()
    }
    assert {n: m.training for n, m in merged.named_modules()} == {
        n: m.training for n, m in a.named_modules()
    }
    assert all(parameter.is_leaf for parameter in merged.parameters())
    assert all(type(p) is nn.Parameter for p in merged.parameters())
    assert all(p.grad is None for p in merged.parameters())


def test_no_memory_is_shared_with_the_inputs(net):
    a, b = net(0, 1), net(1, 1)
    merged = merge([a, b], keep={"decoder.bias": 1, "conv.*": 0})
    inputs = {
        t.untyped_storage().data_ptr() for m in (a, b) for t in [*m.parameters(), *m.buffers()]
    }
    for tensor in [*merged.parameters(), *merged.buffers()]:
        assert tensor.untyped_storage().data_ptr() not in inputs


def test_no_memory_of_a_mapping_is_shared_with_the_inputs():
    a, b = _state(w=[1.0, 2.0], i=[1, 2]), _state(w=[3.0, 4.0], i=[1, 2])
    merged = merge([a, b], lambda tensors: tensors[0], keep={"i": 1})
    merged["w"].fill_(9)
    merged["i"].fill_(9)
    assert (a["w"].tolist(), a["i"].tolist(), b["i"].tolist()) == ([1, 2], [1, 2], [1, 2])


def _in_place(tensors):
    for tensor in tensors:
        tensor.mul_(3)
    return tensors[0].add_(tensors[1])


@pytest.mark.parametrize("method", ["sum", "mean", "linear", _in_place])
def test_inputs_are_unchanged_bit_for_bit(net, all_bits, method):
    a, b = net(0, 1), net(1, 2)
    before = [all_bits(copy.deepcopy(m).state_dict()) for m in (a, b)]
    merge([a, b], method)
    assert [all_bits(m.state_dict()) for m in (a, b)] == before
    assert not any(getattr(part, POOLED, False) for m in (a, b) for part in m.modules())


def test_a_callable_that_works_in_place_gives_its_result():
    merged = merge([_state(w=[1.0]), _state(w=[10.0])], _in_place)
    assert merged["w"].tolist() == [33]


def test_a_generator_of_models_is_consumed_once(net):
    merged = merge(net(seed) for seed in (0, 1))
    torch.testing.assert_close(
        merged.conv.weight, (net(0).conv.weight + net(1).conv.weight) / 2, rtol=0, atol=0
    )


@pytest.mark.parametrize("method", ["sum", "mean", "linear", lambda tensors: tensors[0]])
def test_one_model_gives_itself(net, all_bits, method):
    a = net(0, 2)
    merged = merge([a], method)
    assert all_bits(merged.state_dict()) == all_bits(a.state_dict())
    assert conjoin.needs_reestimation(merged) == []  # nothing was pooled


def test_devices_may_be_mixed_within_a_module(net):
    a, b = net(0), net(1)
    for module in (a, b):
        module.decoder.bias = nn.Parameter(torch.empty(2, device="meta"))
        module.index = torch.empty(3, dtype=torch.int64, device="meta")
    merged = merge([a, b])
    assert merged.decoder.bias.is_meta
    assert merged.index.is_meta
    torch.testing.assert_close(merged.conv.bias, (a.conv.bias + b.conv.bias) / 2)


@pytest.mark.parametrize("empty", [0, 1])
def test_meta_against_real_names_the_tensor_and_the_model(net, empty):
    nets = [net(0), net(1)]
    nets[empty].decoder.bias = nn.Parameter(torch.empty(2, device="meta"))
    with pytest.raises(CheckpointError, match=rf"'decoder.bias' of model {empty} .*meta device"):
        merge(nets)


def test_layers_with_pooled_statistics_are_marked(net):
    merged = merge([net(0, 1), net(1, 1)])
    assert conjoin.needs_reestimation(merged) == ["norm"]
    assert conjoin.needs_reestimation(merge([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])) == [""]


def test_kept_statistics_are_not_marked(net):
    a, b = net(0, 1), net(1, 1)
    merged = merge([a, b], keep={"norm.running_*": 1})
    assert conjoin.needs_reestimation(merged) == []
    assert torch.equal(merged.norm.running_var, b.norm.running_var)


def test_a_single_model_stays_marked():
    pooled = merge([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
    assert conjoin.needs_reestimation(merge([pooled])) == [""]


def test_dtypes_of_a_module_are_kept():
    def mixed():
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        net[0].half()
        net[1].double()
        net[2].bfloat16()
        return net

    merged = merge([mixed(), mixed()])
    assert [layer.weight.dtype for layer in merged] == [
        torch.float16,
        torch.float64,
        torch.bfloat16,
    ]


# Constants ---------------------------------------------------------------------------------------


def test_constants_that_differ_name_both_models_and_the_count(net):
    a, b = net(0), net(1)
    b.mask[1] = 5.0
    with pytest.raises(MismatchError) as error:
        merge([a, b])
    message = str(error.value)
    assert "'mask' is a constant, and 1 of its 2 elements differ" in message
    assert "model 0 (module Net)" in message
    assert "model 1 (module Net)" in message
    assert merge([a, b], kinds={"mask": "weight"}).mask.tolist() == [1, 2.5]
    assert merge([a, b], keep={"mask": 1}).mask.tolist() == [1, 5]


def test_integers_differ():
    with pytest.raises(MismatchError, match="'i' is a constant, and 2 of its 3 elements differ"):
        merge([_state(i=[1, 2, 3]), _state(i=[1, 0, 4])])


def test_constants_with_nan_agree_if_the_nans_do():
    state = {"inv_freq": torch.tensor([float("nan"), 1.0])}
    merged = merge([state, copy.deepcopy(state)], allow_nonfinite=True)
    assert str(merged["inv_freq"].tolist()) == "[nan, 1.0]"
    with pytest.raises(MismatchError, match="1 of its 2"):
        merge([state, {"inv_freq": torch.tensor([0.0, 1.0])}], allow_nonfinite=True)


def test_a_mask_of_minus_infinity_is_a_constant_like_others():
    def masked():
        module = nn.Linear(2, 2)
        module.register_buffer("attn_mask", torch.tensor([0.0, -torch.inf]))
        return module

    assert merge([masked(), masked()]).attn_mask.tolist() == [0, -torch.inf]


@pytest.mark.parametrize(
    "kind",
    [
        "constant",
        pytest.param(
            "counter",
        ),
    ],
)
def test_integers_of_other_dtypes_give_what_the_spec_says_or_a_clear_error(kind):
    a = {"num_batches_tracked" if kind == "counter" else "i": torch.tensor(3, dtype=torch.int32)}
    b = {name: tensor.long() for name, tensor in a.items()}
    try:
        merged = merge([a, b])
    except MismatchError as error:
        assert "int64" in str(error)  # noqa: PT017 - either is right
    else:
        assert {name: tensor.dtype for name, tensor in merged.items()} == {
            name: tensor.dtype for name, tensor in a.items()
        }


def test_scalars_and_empty_tensors():
    a = _state(w=2.0, e=torch.empty(0, 3), n=torch.empty(0, dtype=torch.int64), i=7)
    b = _state(w=4.0, e=torch.empty(0, 3), n=torch.empty(0, dtype=torch.int64), i=7)
    merged = merge([a, b])
    assert (merged["w"].item(), merged["w"].shape, merged["i"].item()) == (3, (), 7)
    assert (merged["e"].shape, merged["n"].dtype) == ((0, 3), torch.int64)


# NaN and infinity --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2]
)
def test_nan_and_infinity_name_tensor_model_and_counts(dtype):
    good = {"a.w": torch.ones(5, dtype=dtype)}
    bad = {"a.w": torch.tensor([1, float("nan"), float("inf"), -float("inf"), 2]).to(dtype)}
    with pytest.raises(
        NonFiniteError, match=r"'a.w' of model 1 \(memory\) has 1 NaN and 2 infinite among 5 values"
    ):
        merge([good, bad])
    merged = merge([good, bad], allow_nonfinite=True)["a.w"].float()
    assert merged.isnan().tolist() == [False, True, False, False, False]
    assert merged.isinf().tolist() == [False, False, True, True, False]


def test_nan_in_statistics_and_kept_tensors_is_seen(net):
    a, b = net(0), net(1)
    b.norm.running_mean[1] = float("nan")
    with pytest.raises(NonFiniteError, match="'norm.running_mean' of model 1"):
        merge([a, b])
    with pytest.raises(NonFiniteError, match="'norm.running_mean' of model 1"):
        merge([a, b], keep={"norm.*": 1})
    merge([a, b], keep={"norm.*": 0})  # the damaged one is not used


def test_complex_nan_is_seen():
    bad = {"w": torch.tensor([complex(0, float("nan")), 1j])}
    with pytest.raises(NonFiniteError, match="1 NaN and 0 infinite among 2"):
        merge([{"w": torch.zeros(2, dtype=torch.complex64)}, bad])


def test_overflow_in_the_dtype_of_the_result_is_an_error():
    a = {"w": torch.tensor([1.0, 60000.0], dtype=torch.float16)}
    with pytest.raises(NonFiniteError, match=r"'w' of the result \(overflow\?\) has 0 NaN and 1 i"):
        merge([a, a], "sum")
    assert merge([a, a], "mean")["w"].tolist() == [1, 60000]  # the sum is made in float32
    assert merge([a, a], "sum", dtype=torch.float32)["w"].tolist() == [2, 120000]
    assert merge([a, a], "sum", allow_nonfinite=True)["w"].tolist() == [2, torch.inf]
