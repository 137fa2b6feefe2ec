"""Models that cannot be copied, or have no weights yet, are named; the rest is copied as it is."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import conjoin
from conjoin.arguments import check_weights
from conjoin.data_statistics import collect_statistics
from conjoin.errors import InputError
from conjoin.measure import activation_statistics
from conjoin.symmetry.copies import fresh_copy


def _plain():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def _pruned():
    net = _plain()
    prune.random_unstructured(net[0], "weight", 0.5)
    net(_rows())  # the weight that is computed here cannot be copied
    return net


def _lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))


def _on_meta():
    return _plain().to("meta")


def _rows():
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def _align(net):
    conjoin.align(net, to=net, example_inputs=_rows())


USES = {
    "find_symmetries": lambda net: conjoin.find_symmetries(net, _rows()),
    "collect_statistics": lambda net: collect_statistics(net, [_rows()]),
    "merge_with_data": lambda net: conjoin.merge_with_data([net, net], [[_rows()]] * 2, align=None),
}


@pytest.mark.parametrize("use", [*USES, "align"])
def test_a_model_that_cannot_be_copied(use):
    with pytest.raises(InputError, match=r"Sequential cannot be copied.*prune\.remove"):
        {**USES, "align": _align}[use](_pruned())


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("make", [_lazy, _on_meta])
@pytest.mark.parametrize("use", USES)
def test_a_model_without_weights(use, make):
    expected = "not initialized.*one batch first" if make is _lazy else "meta device.*load its"
    with pytest.raises(InputError, match=f"'0.weight' of .*{expected}"):
        USES[use](make())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_activations_of_a_model_without_weights():
    with pytest.raises(InputError, match="'0.weight' of b is not initialized"):
        activation_statistics({"a": _plain(), "b": _lazy()}, _plain(), [_rows()], task="t")


def test_what_can_be_copied_is():
    net = _plain()
    check_weights(net)
    copied = fresh_copy(net)
    assert copied is not net
    for one, other in zip(copied.parameters(), net.parameters(), strict=True):
        assert one is not other
        assert torch.equal(one, other)
