"""The Fisher-weighted mean by hand and against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from conjoin.data_statistics import collect_statistics
from conjoin.errors import InputError, MethodError, MismatchError, NonFiniteError
from conjoin.fitting.fisher import fisher
from conjoin.symmetry import find_symmetries


def _net(seed):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net


def _rows(seed):
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(seed))


def _seen(net, x):
    return collect_statistics(net, [x], what=("fisher",))


def test_by_hand():
    a, b = {"w": torch.tensor([1.0, 1.0, 1.0])}, {"w": torch.tensor([5.0, 5.0, 5.0])}
    seen = [
        {"w:fisher": torch.tensor([3.0, 0.0, 0.0])},
        {"w:fisher": torch.tensor([1.0, 0.0, 2.0])},
    ]
    found = fisher([a, b], seen)["w"]
    # (3 1 + 1 5) / 4; nobody's, so the mean; b's, since a's is but the floor.
    torch.testing.assert_close(found, torch.tensor([2.0, 3.0, 5.0]))
    found = fisher([a, b], seen, weights=[1, 3])["w"]
    torch.testing.assert_close(found, torch.tensor([3.0, 4.0, 5.0]))


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
def test_against_numpy(weights):
    nets = [_net(seed) for seed in range(3)]
    seen = [_seen(net, _rows(seed)) for seed, net in enumerate(nets)]
    found = fisher([net.state_dict() for net in nets], seen, weights=weights)
    assert list(found) == [name for name, _ in nets[0].named_parameters()]
    everything = np.concatenate([t.numpy().ravel() for one in seen for t in one.values()])
    for name in found:
        top = bottom = 0.0
        for net, one, share in zip(nets, seen, weights or [1.0] * 3, strict=True):
            weight = net.state_dict()[name].double().numpy()
            here = share * np.maximum(one[f"{name}:fisher"].numpy(), 1e-6 * everything.mean())
            top, bottom = top + here * weight, bottom + here
        np.testing.assert_allclose(found[name], top / bottom, rtol=1e-5, atol=1e-6)


def test_equal_information_is_the_mean_and_none_at_all_too():
    parents = [net.state_dict() for net in (_net(0), _net(1))]
    for value in (0.0, 0.25):
        seen = {"0.weight:fisher": torch.full((8, 4), value)}
        found = fisher(parents, [seen, seen])["0.weight"]
        torch.testing.assert_close(found, (parents[0]["0.weight"] + parents[1]["0.weight"]) / 2)


def test_equal_parents_give_that_parent_to_the_bit():
    net = _net(0)
    found = fisher([net.state_dict()] * 3, [_seen(net, _rows(seed)) for seed in range(3)])
    assert all(torch.equal(found[name], p) for name, p in net.named_parameters())


def test_shuffled_parents_give_the_shuffled_result():
    nets = [_net(0), _net(1)]
    order = find_symmetries(nets[0], _rows(0)[:2]).sample(torch.Generator().manual_seed(0))
    plain, shuffled = (
        fisher([net.state_dict() for net in some], [_seen(net, _rows(2)) for net in some])
        for some in (nets, [order.apply(net) for net in nets])
    )
    assert not torch.allclose(plain["0.weight"], shuffled["0.weight"], atol=0.1)
    for name, tensor in plain.items():
        torch.testing.assert_close(shuffled[name], order.tensor(name, tensor), rtol=1e-3, atol=1e-4)


def test_dtype_is_that_of_the_parents():
    parents = [{"w": torch.ones(2, dtype=torch.bfloat16)} for _ in range(2)]
    found = fisher(parents, [{"w:fisher": torch.ones(2)}] * 2)
    assert found["w"].dtype == torch.bfloat16


def test_bad_input():
    parents, seen = [{"w": torch.ones(2)}] * 2, [{"w:fisher": torch.ones(2)}] * 2
    with pytest.raises(InputError, match="2 parents need as many statistics; found 1"):
        fisher(parents, seen[:1])
    with pytest.raises(MethodError, match="one weight for each of 2 parents; found 1"):
        fisher(parents, seen, weights=[1])
    with pytest.raises(InputError, match="have no Fisher information; collect them"):
        fisher(parents, [{}, {}])
    with pytest.raises(InputError, match="only one of the statistics 0 and 1 has .* 'w'"):
        fisher(parents, [seen[0], {}])
    with pytest.raises(MismatchError, match="parent 1 has no tensor 'w'"):
        fisher([parents[0], {}], seen)
    with pytest.raises(
        MismatchError, match=r"must have one shape in all parents; found \[2\], \[3\]"
    ):
        fisher([parents[0], {"w": torch.ones(3)}], seen)
    with pytest.raises(NonFiniteError, match="'w' of a parent, or its Fisher information"):
        fisher([parents[0], {"w": torch.tensor([1.0, float("nan")])}], seen)
