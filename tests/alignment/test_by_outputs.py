"""Of several orders, the one whose mean is nearest to the models in its outputs."""

import torch
from alignment_networks import mlp, new
from torch import nn

from conjoin import merge, reestimate_batchnorm
from conjoin.alignment import align
from conjoin.alignment.by_outputs import nearest_first
from conjoin.alignment.together import Together
from conjoin.symmetry import Permutations, find_symmetries

INPUTS = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))


def with_norm():
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))


def models_and_ends(make, count=5):
    """Three models, and orders drawn at random: the outputs of their means all differ."""
    nets = [new(make, seed) for seed in range(3)]
    nets = [reestimate_batchnorm(net, [(INPUTS, INPUTS)]) if has_norm(net) else net for net in nets]
    symmetries = find_symmetries(nets[0], INPUTS[:2])
    generator = torch.Generator().manual_seed(1)
    still = Permutations(symmetries.layout, {})
    drawn = [(still, *(symmetries.sample(generator) for _ in range(2))) for _ in range(count)]
    ends = [Together(str(n), orders, 0.0, 0.0) for n, orders in enumerate(drawn)]
    return [net.eval() for net in nets], symmetries, ends


def has_norm(net):
    return any(isinstance(part, nn.BatchNorm1d) for part in net.modules())


def divergence(nets, orders):
    """Of the mean from the models, in NumPy's sense: sum p log(p / q), BatchNorm re-estimated."""
    mean = merge([order.apply(net) for order, net in zip(orders, nets, strict=True)])
    if has_norm(mean):
        mean = reestimate_batchnorm(mean, [(INPUTS, INPUTS)])
    with torch.no_grad():
        ours = mean.eval()(INPUTS).double().softmax(1)
        theirs = [net(INPUTS).double().softmax(1) for net in nets]
    return sum(float((p * (p / ours).log()).sum(1).mean()) for p in theirs)


def check(make):
    nets, _, ends = models_and_ends(make)
    found = nearest_first(nets, ends, [INPUTS])
    assert sorted(end.start for end in found) == sorted(end.start for end in ends)
    apart = [divergence(nets, end.orders) for end in found]
    assert apart == sorted(apart)
    assert apart[-1] > apart[0] + 1e-4


def test_the_nearest_comes_first():
    check(lambda: mlp(4, 9, 3))


def test_with_batchnorm_re_estimated():
    check(with_norm)


def test_equal_orders_stay_as_they_were():
    nets, _, (end, *_) = models_and_ends(lambda: mlp(4, 9, 3))
    twice = [end, Together("again", end.orders, 1.0, 0.0)]
    assert nearest_first(nets, twice, [INPUTS]) == twice


def test_the_models_are_not_changed():
    nets, _, ends = models_and_ends(with_norm)
    before = [{n: t.clone() for n, t in net.state_dict().items()} for net in nets]
    nearest_first(nets, ends, [INPUTS[:100], INPUTS[100:]])
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
        assert not net.training


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(2))
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x):
        return self.layers(x) * self.scale


def test_models_that_have_no_mean_keep_the_order_by_units():
    nets, _, ends = models_and_ends(Scaled)
    nets[1].scale.add_(1)
    assert nearest_first(nets, ends, [INPUTS]) == ends


def test_batches_of_one_example_leave_the_order_by_units():
    """BatchNorm1d has no statistics of one example; the orders are found all the same."""
    nets, symmetries, ends = models_and_ends(with_norm)
    ones = list(INPUTS[:40].split(1))
    assert nearest_first(nets, ends, ones) == ends
    assert len(align(nets, symmetries=symmetries, data=ones)) == 3


class Counted(nn.Sequential):
    def forward(self, x):
        return super().forward(x).argmax(1)


def test_outputs_that_are_no_numbers_leave_the_order_by_units():
    nets, _, ends = models_and_ends(lambda: mlp(4, 9, 3))
    assert nearest_first([Counted(*net) for net in nets], ends, [INPUTS]) == ends


def test_align_of_three_is_at_least_as_near_as_any_pivot():
    nets, symmetries, _ = models_and_ends(with_norm)
    found = align(nets, symmetries=symmetries, data=[INPUTS])
    ours = divergence(nets, [one.permutations for one in found])
    still = Permutations(symmetries.layout, {})
    for pivot in nets:
        orders = [
            still
            if net is pivot
            else align(net, to=pivot, symmetries=symmetries, data=[INPUTS]).permutations
            for net in nets
        ]
        assert ours <= divergence(nets, orders) + 1e-6
    assert sum(start.startswith("pairs with") for start, _ in found[0].starts) == 3
