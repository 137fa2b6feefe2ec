"""The peers are what their papers say, on networks where that can be worked out."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("importable")


class Block(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return F.relu(y)


def resnet20():
    """CIFAR's ResNet20, of a quarter of the width."""
    layers = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    channels = 4
    for stage, block in itertools.product(range(3), range(3)):
        layers.append(Block(channels, 4 << stage, 2 if stage and not block else 1))
        channels = 4 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


def vgg():
    """Its classifier reads four positions of every channel."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 12), nn.ReLU(inplace=True)),
        *(nn.Dropout(0.5), nn.Linear(12, 5)),
    )


def mlp():
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10), nn.ReLU()),
        nn.Linear(10, 5),
    )


MAKES = {"vgg": vgg, "mlp": mlp, "resnet20": resnet20}


def network(name):
    """Give a network in float64 whose units are all alive, and unlike one another."""
    made = MAKES[name]().double().eval()
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(0.2, 0.8)
    return made


def inputs(count=60):
    return [torch.randn(count, 3, 8, 8).double() + k for k in range(2)]


def shuffled_pair(name):
    """Give a network with statistics of the data, and a copy with units in another order."""
    from peers.data import reset_batchnorm
    from peers.graph import graph_of
    from peers.permuting import permuted

    x = inputs()
    first = reset_batchnorm(network(name), x)
    graph = graph_of(first)
    orders = [torch.randperm(space.size) for space in graph.spaces]
    second = permuted(first, graph, orders)
    weights = zip(first.parameters(), second.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in weights)
    return first, second, x, orders


def methods():
    from peers.otfusion import otfusion
    from peers.pleas import pleas
    from peers.regmean import regmean
    from peers.zipit import zipit

    few = {"steps": 5}
    return {
        "zipit": zipit,
        "zipit, no merge within": lambda nets, x: zipit(nets, x, beta=0.0),
        "pleas": lambda nets, x: pleas(nets, x, **few),
        "pleas, weights": lambda nets, x: pleas(nets, x, matching="weights", **few),
        "regmean": lambda nets, x: regmean(nets, x, aligned=True),
        "otfusion": otfusion,
        "otfusion, weights": lambda nets, x: otfusion(nets, x, metric="weights"),
    }


METHODS = (
    *("zipit", "zipit, no merge within", "pleas", "pleas, weights", "regmean"),
    *("otfusion", "otfusion, weights"),
)


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("method", METHODS)
def test_a_network_and_its_shuffled_copy_give_that_network(name, method):
    first, second, x, _ = shuffled_pair(name)
    before = copy.deepcopy([first.state_dict(), second.state_dict()])
    if name == "resnet20" and method.startswith("otfusion"):
        with pytest.raises(ValueError, match="residual"):
            methods()[method]([first, second], x)
        return
    merged = methods()[method]([first, second], x)
    assert type(merged) is type(first)
    assert not merged.training
    # Adam moves by its learning rate even where the gradient is rounding error.
    bar = 0.02 if method.startswith("pleas") else 1e-6
    assert error(merged, first, x) < bar
    for module, state in zip((first, second), before, strict=True):
        assert all(torch.equal(module.state_dict()[key], state[key]) for key in state)
        assert not any(parameter.grad is not None for parameter in module.parameters())


def error(a, b, x):
    with torch.no_grad():
        one, two = (module(torch.cat(x)) for module in (a, b))
    return float((one - two).norm() / (two - two.mean(0)).norm())


@pytest.mark.parametrize("name", MAKES)
def test_reordering_computes_the_same(name):
    first, second, x, _ = shuffled_pair(name)
    assert error(second, first, x) < 1e-12


@pytest.mark.parametrize("name", MAKES)
def test_matchings_find_the_order_again(name):
    from peers.graph import graph_of
    from peers.permuting import match_activations, match_weights

    first, second, x, orders = shuffled_pair(name)
    graph = graph_of(first)
    for found in (match_activations(first, second, graph, x), match_weights(first, second, graph)):
        for one, order in zip(found, orders, strict=True):
            assert torch.equal(order[one], torch.arange(len(order)))


class TestGraph:
    def test_of_a_plain_network(self):
        from peers.graph import graph_of

        graph = graph_of(vgg())
        found = [(layer.name, layer.reads, layer.writes) for layer in graph.layers]
        assert found == [("0", None, 0), ("3", 0, 1), ("8", 1, 2), ("11", 2, None)]
        assert graph.norms == {"1": 0, "4": 1}
        # The pooled and the flattened channels are the same units.
        assert [space.size for space in graph.spaces] == [6, 8, 12]
        assert [space.features for space in graph.spaces] == ["_2", "_5", "_9"]
        assert graph.spaces[1].nodes == ("_3", "_4", "_5", "_6", "_7")

    def test_a_stage_of_a_resnet_is_one_space(self):
        from peers.graph import graph_of

        graph = graph_of(resnet20())
        assert sorted(space.size for space in graph.spaces) == [4] * 4 + [8] * 4 + [16] * 4
        writers = [[a.name for a in graph.layers if a.writes == k] for k in range(12)]
        streams = [names for names in writers if len(names) > 1]
        assert streams == [
            ["0", "3.conv2", "4.conv2", "5.conv2"],
            ["6.conv2", "6.shortcut.0", "7.conv2", "8.conv2"],
            ["9.conv2", "9.shortcut.0", "10.conv2", "11.conv2"],
        ]
        assert graph.layers[-1].writes is None

    def test_what_it_does_not_know_is_refused(self):
        from peers.graph import graph_of

        for wrong in (
            nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),
            nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()),
        ):
            with pytest.raises(ValueError, match="not among what the peers know"):
                graph_of(wrong)


#         network 1: units 0, 1    network 2: units 2, 3
WITHIN = [
    [1.0, 0.9, 0.5, 0.1],
    [0.9, 1.0, 0.2, 0.1],
    [0.5, 0.2, 1.0, 0.3],
    [0.1, 0.1, 0.3, 1.0],
]


class TestZipUnits:
    def zipped(self, rows, **settings):
        from peers.zipit import zip_units

        merge, unmerge = zip_units(torch.tensor(rows), **settings)
        merge, unmerge = torch.cat(merge, 1), torch.cat(unmerge)
        together = {frozenset(np.flatnonzero(column).tolist()) for column in unmerge.T.numpy()}
        assert torch.equal(merge.sum(1), torch.ones(len(merge), dtype=torch.float64))
        assert torch.equal(merge > 0, unmerge.T > 0)
        return together

    def test_the_largest_correlation_first_even_within_a_network(self):
        found = self.zipped(WITHIN, alpha=0.5, beta=1.0)
        # 0 and 1; then {0, 1} has min(.5, .2) / 2 with 2, and 2 and 3 have .3.
        assert found == {frozenset({0, 1}), frozenset({2, 3})}

    def test_without_a_budget_units_pair_across(self):
        # .5 for (0, 2); of what is left, (1, 3) has .1, and {0, 2} with 1 would be within.
        found = self.zipped(WITHIN, alpha=1.0, beta=0.0)
        assert found == {frozenset({0, 2}), frozenset({1, 3})}

    def test_alpha_makes_larger_groups_rarer(self):
        rows = [
            [1.0, 0.0, 0.9, 0.8],
            [0.0, 1.0, 0.1, 0.5],
            [0.9, 0.1, 1.0, 0.85],
            [0.8, 0.5, 0.85, 1.0],
        ]
        # After 0 and 2, {0, 2} has .8 alpha with 3; 1 and 3 have .5.
        pairs = {frozenset({0, 2}), frozenset({1, 3})}
        assert self.zipped(rows, alpha=1.0, beta=1.0) == {frozenset({0, 2, 3}), frozenset({1})}
        assert self.zipped(rows, alpha=0.6, beta=1.0) == pairs
        # Without a budget, a group of both networks takes nothing more, whatever alpha is.
        assert self.zipped(rows, alpha=1.0, beta=0.0) == pairs

    def test_the_fast_search_is_the_plain_one(self):
        generator = torch.Generator().manual_seed(1)
        for alpha, beta in itertools.product((0.01, 0.3, 1.0), (0.0, 0.3, 1.0)):
            x = torch.randn(24, 12, generator=generator, dtype=torch.float64)
            rows = torch.corrcoef(x)
            found = self.zipped(rows.tolist(), alpha=alpha, beta=beta)
            assert found == plain_zip(rows, alpha, beta)

    def test_settings_out_of_range(self):
        for wrong in ({"alpha": 0.0, "beta": 0.5}, {"alpha": 0.5, "beta": 1.5}):
            with pytest.raises(ValueError, match="alpha must be"):
                self.zipped(WITHIN, **wrong)


def plain_zip(correlation, alpha, beta):
    """Zip in the plainest way: all pairs of groups, looked at anew for every merge."""
    n = len(correlation) // 2
    c = {(i, j): float(correlation[i, j]) for i in range(2 * n) for j in range(i)}
    groups = {i: {i} for i in range(2 * n)}
    left = {True: int(n // 2 * beta + 1e-4), False: int(n // 2 * beta + 1e-4)}

    def spent():
        ends = [one for one, budget in left.items() if budget == 0]
        c.update({(i, j): -np.inf for i, j in c if (i < n) == (j < n) and (i < n) in ends})

    spent()
    while len(groups) > n:
        drop, keep = max(c, key=c.__getitem__)
        for other in groups.keys() - {keep, drop}:
            pair, gone = (tuple(sorted((other, one), reverse=True)) for one in (keep, drop))
            c[pair] = alpha * min(c[pair], c.pop(gone))
        del c[drop, keep]
        groups[keep] |= groups.pop(drop)
        if (drop < n) == (keep < n):
            left[keep < n] -= 1
            spent()
    return {frozenset(group) for group in groups.values()}


class TestHeads:
    def test_the_trunk_is_shared_and_the_rest_is_each_network_s_own(self):
        from peers.zipit import zipit_heads

        first, second, x, _ = shuffled_pair("vgg")
        with torch.no_grad():
            for tensor in second[11].parameters():
                tensor.neg_()
        heads = zipit_heads([first, second], x, until="3")
        assert heads[0][3].weight is heads[1][3].weight
        assert heads[0][8].weight is not heads[1][8].weight
        for head, parent in zip(heads, (first, second), strict=True):
            assert error(head, parent, x) < 1e-6

    def test_of_a_resnet_up_to_the_end_of_a_stage(self):
        from peers.zipit import zipit_heads

        first, second, x, _ = shuffled_pair("resnet20")
        heads = zipit_heads([first, second], x, until="5.conv2")
        assert heads[0][5].conv2 is heads[1][5].conv2
        assert heads[0][6].conv1 is not heads[1][6].conv1
        assert all(error(head, first, x) < 1e-6 for head in heads)

    def test_a_place_that_cannot_be_cut(self):
        from peers.zipit import zipit_heads

        pair = [network("resnet20"), network("resnet20")]
        with pytest.raises(ValueError, match="reads what is not merged yet"):
            zipit_heads(pair, inputs(), until="4.conv1")
        with pytest.raises(ValueError, match="until must be one of 0, 3.conv1"):
            zipit_heads(pair, inputs(), until="14")


def test_pleas_fits_the_mean_of_outputs_on_the_mean_of_inputs():
    """Of a single linear layer, that is the mean of weights; the fit must also get there."""
    from peers.pleas import pleas

    pair = [nn.Sequential(nn.Linear(4, 3)).double().eval() for _ in range(2)]
    x = [torch.randn(50, 4).double() for _ in range(2)]
    merged = pleas(pair, x, steps=3)
    expected = (pair[0][0].weight + pair[1][0].weight) / 2
    torch.testing.assert_close(merged[0].weight, expected, atol=2e-3, rtol=0)

    # Behind a ReLU, inputs differ, and the mean is not the solution any more.
    pair = [nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double() for _ in range(2)]
    merged = pleas(pair, x, steps=1500, learning_rate=0.05, batch_size=100)
    from peers.graph import graph_of
    from peers.permuting import match_activations, permuted

    graph = graph_of(pair[0])
    orders = match_activations(*pair, graph, [torch.cat(x)])
    pair[1] = permuted(pair[1], graph, orders)
    with torch.no_grad():
        z = sum(module[:2](torch.cat(x)) for module in pair) / 2
        target = sum(module(torch.cat(x)) for module in pair) / 2
        ones = torch.ones(len(z), 1).double()
        solution = torch.linalg.lstsq(torch.cat([z, ones], 1), target).solution
    torch.testing.assert_close(merged[2].weight.detach(), solution[: 2 + 1].T, atol=1e-3, rtol=0)


def test_regmean_is_least_squares_on_both_tasks():
    from peers.regmean import regmean

    pair = [nn.Sequential(nn.Linear(4, 3, bias=False)).double().eval() for _ in range(2)]
    x = [torch.randn(30, 4).double() * scale for scale in (1.0, 3.0)]
    merged = regmean(pair, x, ratio=1.0)
    targets = torch.cat([module(part) for module, part in zip(pair, x, strict=True)])
    solution = torch.linalg.lstsq(torch.cat(x), targets).solution
    torch.testing.assert_close(merged[0].weight, solution.T)
    # With the diagonal alone: a mean of each column, weighted by its inputs' squares.
    merged = regmean(pair, x, ratio=0.0)
    squares = torch.stack([part.square().sum(0) for part in x])
    weights = torch.stack([module[0].weight for module in pair])
    expected = (weights * squares[:, None]).sum(0) / squares.sum(0)
    torch.testing.assert_close(merged[0].weight, expected)


def test_regmean_s_patches_are_those_of_the_convolution():
    from peers.regmean import regmean

    pair = [
        nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)).double().eval()
        for _ in range(2)
    ]
    x = [torch.randn(20, 2, 6, 6).double(), torch.zeros(20, 2, 6, 6).double()]
    # Nothing is known of the second task, so the first network's weights are the solution.
    torch.testing.assert_close(regmean(pair, x, ratio=1.0)[0].weight, pair[0][0].weight)


def test_statistics_are_those_of_the_mixture():
    from peers.data import reset_batchnorm

    x = [torch.randn(500, 2) + 3, torch.randn(500, 2) * 2]
    norm = reset_batchnorm(nn.Sequential(nn.BatchNorm1d(2)), x)[0]
    together = torch.cat(x)
    assert norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, together.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.running_var, together.var(0), rtol=0.05, atol=0)
