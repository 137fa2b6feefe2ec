"""Modules that fit together by their tensors alone."""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import conjoin
from conjoin import merge
from conjoin.errors import InputError, MethodError, MismatchError, StructureWarning


def _net(*layers):
    return nn.Sequential(nn.Linear(2, 2), *layers)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.ReLU(), nn.Tanh()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.GELU(), nn.GELU(approximate="tanh")),
        (nn.LayerNorm(2), nn.LayerNorm(2, eps=0.1)),
        (nn.MultiheadAttention(4, 1), nn.MultiheadAttention(4, 2)),
        (nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, stride=2)),
        (nn.MaxPool2d(2), nn.AvgPool2d(2)),
        (nn.Sequential(nn.Linear(1, 1)), nn.ModuleList([nn.Linear(1, 1)])),
    ],
    ids=lambda one: type(one).__name__,
)
def test_layers_that_compute_something_else_are_warned_of(one, other):
    with pytest.warns(StructureWarning, match=r"models 0 and 1 .* '1' is .* The result computes"):
        merged = merge([_net(one), _net(other)])
    assert type(merged[1]) is type(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.ReLU(), nn.ReLU(inplace=True)),
        (nn.Dropout(0.1), nn.Dropout(0.5)),
        (nn.Dropout(0.1), nn.Identity()),
        (nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.2)),
        (nn.Linear(2, 2), nn.Linear(2, 2).eval()),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_changes_nothing_is_not(one, other):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge([_net(one), _net(other)])


def test_heads_of_different_sizes_may_be_kept():
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, k)) for k in (3, 4))
    assert torch.equal(merge([first, second], keep={"1.*": 0})[1].weight, first[1].weight)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_weights_that_are_computed_from_others_are_refused(norm):
    nets = [_net() for _ in range(2)]
    for net in nets:
        getattr(nn.utils.parametrizations, norm)(net[0])
    with pytest.raises(InputError, match="'0.weight' of model 0 .*remove_parametrizations"):
        merge(nets)
    for net in nets:
        nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    expected = (nets[0][0].weight + nets[1][0].weight) / 2
    torch.testing.assert_close(merge(nets)[0].weight, expected)


def test_modules_that_cannot_be_copied_are_named():
    pruned = _net()
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    pruned(torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"a part of a weight that is computed.* prune\.remove"):
        merge([pruned, pruned])
    locked = _net()
    locked.lock = threading.Lock()
    with pytest.raises(InputError, match="Sequential cannot be copied .*lock"):
        merge([locked, locked])
    merge([locked.state_dict(), locked.state_dict()])


A = {"w": torch.tensor([0.0, 1.0]), "head": torch.ones(1)}
B = {"w": torch.tensor([1.0, 3.0]), "head": torch.zeros(1)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": {0: 3, 1: 1}}, "weights has to be a list of numbers"),
        ({"keep": ["head"]}, r"keep has to be a mapping such as \{\"classifier"),
        ({"keep": {2: 0}}, "a pattern of tensor names is a string"),
        ({"keep": {"head": "0"}}, "names no model; they are 0 to 1"),
        ({"kinds": "weight"}, "kinds has to be a mapping"),
        ({"parameters": "t=0.3"}, "parameters has to be a mapping"),
        ({"parameters": {1: 2}}, "linear has no parameter 1"),
        ({"dtype": "float17"}, "dtype has to be a torch.dtype"),
        ({"dtype": torch.int8}, "weights cannot be torch.int8"),
        ({"seed": "0"}, "seed has to be a whole number"),
    ],
)
def test_arguments_of_another_kind_are_said(given, message):
    with pytest.raises(InputError, match=message):
        merge([A, B], "linear", **given)


@pytest.mark.parametrize("models", [None, 3])
def test_models_that_are_no_list(models):
    with pytest.raises(InputError, match="expected a list of models"):
        merge(models)


def test_names_of_dtypes_and_numbers_of_numpy():
    np = pytest.importorskip("numpy")
    assert merge([A, B], dtype="float64")["w"].dtype == torch.float64
    expected = merge([A, B], "slerp", parameters={"t": 0.25})["w"]
    assert torch.equal(merge([A, B], "slerp", parameters={"t": np.float32(0.25)})["w"], expected)
    assert merge([A, B], keep={"head": np.int64(1)})["head"].item() == 0


def test_a_method_may_be_given_by_its_function():
    expected = merge([A, B], "slerp", parameters={"t": 0.25})["w"]
    found = merge([A, B], conjoin.methods.slerp, parameters={"t": 0.25})["w"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_integers_beside_floats_are_refused_in_either_order(dtype):
    whole, real = {"w": torch.tensor([1, 2])}, {"w": torch.tensor([1.0, 2.0])}
    for models in ([whole, real], [real, whole]):
        with pytest.raises(MismatchError, match="different dtypes"):
            merge(models, dtype=dtype)


def test_a_function_that_makes_real_weights_complex_is_refused():
    with pytest.raises(MethodError, match="gave complex numbers for 'w'"):
        merge([A, B], lambda tensors: tensors[0] * 1j)


def test_slerp_says_how_to_go_part_of_the_way():
    with pytest.raises(MethodError, match=r'slerp takes no weights; .*parameters=\{"t": ...\}'):
        merge([A, B], "slerp", weights=[0.3, 0.7])


def test_submodules_are_found_without_an_import():
    assert conjoin.measure.distances
    with pytest.raises(AttributeError, match="no attribute 'meassure'"):
        conjoin.meassure  # noqa: B018 - asking is what is tested


@pytest.mark.filterwarnings("ignore")  # torch's own: they are the older way
@pytest.mark.parametrize("way", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("has_run", [False, True])
def test_weights_that_hooks_compute_are_refused_whatever_ran_before(way, has_run):
    models = [nn.Sequential(way(nn.Linear(2, 2))) for _ in range(2)]
    if has_run:  # what torch has computed then can be copied
        with torch.no_grad():
            _ = [model(torch.ones(1, 2)) for model in models]
    with pytest.raises(InputError, match="of model 0 is computed from other tensors"):
        merge(models)
