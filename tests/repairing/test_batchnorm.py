"""Re-estimated statistics against NumPy."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import conjoin
from conjoin.errors import DataError, InputError, NonFiniteError
from conjoin.repairing import has_batchnorm, needs_reestimation, reestimate_batchnorm

few = settings(deadline=None, max_examples=20)


def _expected(parts):
    """Averages, weighted by batch size, of batch means and unbiased batch variances."""
    arrays = [np.moveaxis(p.double().numpy(), 1, -1) for p in parts]
    arrays = [a.reshape(-1, a.shape[-1]) for a in arrays]
    sizes = np.array([len(p) for p in parts], dtype=float)
    means = np.stack([a.mean(0) for a in arrays])
    variances = np.stack([a.var(0, ddof=1) for a in arrays])
    return sizes @ means / sizes.sum(), sizes @ variances / sizes.sum()


def _check(layer, parts):
    mean, variance = _expected(parts)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_var, variance, rtol=1e-5, atol=1e-5)


def _draw(*shape, seed=0, scale=3.0, shift=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator) + shift


@few
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.sampled_from([None, 0.1, 0.9]))
def test_unequal_batches_against_numpy(sizes, momentum):
    loader = [_draw(size, 3, seed=i, shift=i) for i, size in enumerate(sizes)]
    net = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum))
    net[0].running_mean.fill_(50)
    fresh = reestimate_batchnorm(net, loader)
    _check(fresh[0], loader)
    assert fresh[0].num_batches_tracked == len(sizes)
    assert fresh[0].momentum == momentum


def test_by_hand():
    net = nn.Sequential(nn.BatchNorm1d(1))
    loader = [torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0], [7.0], [9.0]])]
    fresh = reestimate_batchnorm(net, loader)
    # Means 1 and 6, unbiased variances 2 and 20/3, shares 1/3 and 2/3.
    assert fresh[0].running_mean.item() == pytest.approx(13 / 3)
    assert fresh[0].running_var.item() == pytest.approx(2 / 3 + 40 / 9)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(2), (6, 2)),
        (nn.BatchNorm1d(2), (6, 2, 5)),
        (nn.BatchNorm2d(2), (6, 2, 3, 4)),
        (nn.BatchNorm3d(2), (4, 2, 2, 3, 2)),
    ],
)
def test_every_dimension(layer, shape):
    loader = [_draw(*shape, seed=0), _draw(*shape, seed=1)[:3]]
    _check(reestimate_batchnorm(nn.Sequential(layer), loader)[0], loader)


def test_tensors_are_cut_into_batches():
    x = _draw(10, 3)
    labels = torch.zeros(10, dtype=torch.int64)
    fresh = reestimate_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), (x, labels), batch_size=4)
    _check(fresh[0], [x[:4], x[4:8], x[8:]])
    loader = [(x[:4], labels[:4]), (x[4:], labels[4:])]
    pairs = [list(pair) for pair in loader]  # as a DataLoader gives them
    for data in (loader, pairs, iter(loader), tuple(loader), [x[:4], x[4:]]):
        fresh = reestimate_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), data)
        _check(fresh[0], [x[:4], x[4:]])


def test_several_loaders_are_one_mixture():
    a, b = _draw(8, 3, shift=5), _draw(6, 3, seed=1, shift=-5)
    y = torch.zeros(8)
    mixed = [torch.cat([a[:4], b[:4]]), torch.cat([a[4:], b[4:]])]
    net = nn.Sequential(nn.BatchNorm1d(3))
    loaders = [[[x, y[: len(x)]] for x in t.split(4)] for t in (a, b)]
    for data in ([(a, y), (b, y[:6])], loaders, tuple(map(iter, loaders))):
        _check(reestimate_batchnorm(net, *data, batch_size=4)[0], mixed)


def test_a_shorter_loader_just_ends():
    a, b = _draw(8, 3, shift=5), _draw(4, 3, seed=1, shift=-5)
    data = [(a, torch.zeros(8)), (b, torch.zeros(4))]
    fresh = reestimate_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), *data, batch_size=4)
    _check(fresh[0], [torch.cat([a[:4], b]), a[4:]])


def test_later_layers_see_normalized_batches():
    """As in training: the second layer sees what the batch's own statistics have normalized."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4))
    loader = [_draw(5, 3), _draw(7, 3, seed=1)]
    fresh = reestimate_batchnorm(net, loader)
    with torch.no_grad():
        hidden = [net[0](x) for x in loader]
        normalized = [
            (h - h.mean(0)) / (h.var(0, correction=0) + net[1].eps).sqrt() for h in hidden
        ]
    _check(fresh[1], hidden)
    _check(fresh[3], [h.relu() for h in normalized])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=None)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.BatchNorm1d(3, momentum=0.3)
        self.untracked = nn.BatchNorm1d(3, track_running_stats=False)
        self.instance = nn.InstanceNorm1d(3, track_running_stats=True)

    def forward(self, x):
        x = self.untracked(self.last(self.dropout(self.norm(x))))
        return self.instance(x[:, :, None].expand(-1, -1, 4))


def test_only_running_statistics_change_and_dropout_is_off():
    net = Net()
    net.train()
    net.last.eval()
    state = copy.deepcopy(net.state_dict())
    torch.manual_seed(0)
    generator = torch.get_rng_state()
    fresh = reestimate_batchnorm(net, [_draw(20, 3)])
    assert torch.equal(torch.get_rng_state(), generator)  # dropout would have drawn
    assert {n for n, t in fresh.state_dict().items() if not torch.equal(t, state[n])} == {
        f"{layer}.{name}"
        for layer in ("norm", "last")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    } | {"instance.running_mean", "instance.running_var"}
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    assert type(fresh) is Net
    for module in (net, fresh):
        assert [part.training for part in module.modules()] == [True] * 3 + [False] + [True] * 2
        assert (module.norm.momentum, module.last.momentum) == (None, 0.3)
    assert all(p.grad is None and p.requires_grad for p in fresh.parameters())
    # Dropout off: what reaches the last layer is normalized.
    np.testing.assert_allclose(fresh.last.running_mean, np.zeros(3), atol=1e-6)


def test_the_mark_is_there_until_the_statistics_are_re_estimated():
    merged = conjoin.merge([nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(3))])
    assert needs_reestimation(merged) == ["0"]
    fresh = reestimate_batchnorm(merged, [_draw(5, 3)])
    assert needs_reestimation(fresh) == []
    assert needs_reestimation(merged) == ["0"]
    assert needs_reestimation(nn.Linear(1, 1)) == []


def test_the_input_is_untouched_when_the_data_fail():
    net = Net()
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(net, [_draw(5, 3), _draw(5, 4)])
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    assert (net.norm.momentum, net.last.momentum) == (None, 0.3)


@pytest.mark.parametrize(
    "net", [nn.Linear(1, 1), nn.BatchNorm1d(1, track_running_stats=False), nn.LayerNorm(1)]
)
def test_nothing_to_re_estimate(net):
    with pytest.raises(InputError, match="no BatchNorm with running statistics"):
        reestimate_batchnorm(net, [torch.zeros(2, 1)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "gave no batch; a loader can be used up: pass a list"),
        (iter(()), "gave no batch"),
        ([["images"]], "got str"),
        (iter([{"x": torch.zeros(2, 3)}]), "got dict"),
        ([torch.zeros(1, 3)], "two examples or more"),
        ((torch.zeros(4, 3), torch.zeros(3)), "4 inputs but 3 labels"),
    ],
)
def test_data_that_cannot_be_used(data, message):
    with pytest.raises(DataError, match=message):
        reestimate_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), data)


def test_no_data_or_a_list_of_loaders():
    net = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="at least one loader"):
        reestimate_batchnorm(net)
    loader = [(_draw(4, 3), torch.zeros(4))]
    for loaders in ([loader, loader], [iter(loader), iter(loader)]):
        with pytest.raises(DataError, match="expected batches of inputs"):
            reestimate_batchnorm(net, loaders)


def test_empty_data_are_a_clear_error():
    with pytest.raises(DataError, match="no batch"):
        reestimate_batchnorm(nn.BatchNorm1d(3), (torch.zeros(0, 3), torch.zeros(0)))


def test_a_layer_that_no_batch_reaches_keeps_its_statistics():
    class OneOfTwo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"used": nn.BatchNorm1d(2), "unused": nn.BatchNorm1d(2)})
            self.parts["unused"].running_mean.fill_(7)

        def forward(self, x):
            return self.parts["used"](x)

    fresh = reestimate_batchnorm(OneOfTwo(), [torch.randn(4, 2)])
    assert fresh.parts["unused"].running_mean.tolist() == [7, 7]


class Called(nn.Module):
    """A layer that is called as often as is said, with other numbers each time."""

    def __init__(self, times):
        super().__init__()
        self.norm, self.times = nn.BatchNorm1d(2), times

    def forward(self, x):
        for number in range(self.times(x)):
            x = x + self.norm(input=x + 10 * number)
        return x


def test_each_call_of_a_layer_counts():
    x = torch.randn(20, 2)
    for data in ([x], list(x.split(5))):
        norm = reestimate_batchnorm(Called(lambda _: 2), data).norm
        seen = reestimate_batchnorm(Called(lambda _: 1), data).norm
        assert (norm.running_mean > seen.running_mean + 4).all()
        assert (norm.running_mean < seen.running_mean + 6).all()


def test_a_layer_that_some_batches_reach_has_their_statistics_alone():
    parts = [torch.randn(8, 2), torch.randn(6, 2), torch.randn(8, 2) * 5 + 100]
    for data in (parts, parts[::-1]):
        net = Called(lambda x: int(x.mean() > 50))
        _check(reestimate_batchnorm(net, data).norm, [parts[2]])


def test_instance_norm_with_statistics_has_those_of_the_data():
    net = nn.InstanceNorm1d(3, track_running_stats=True)
    x = torch.randn(7, 3, 5) * 4 + 2
    merged = conjoin.merge([net, net])
    assert needs_reestimation(merged) == [""]
    fresh = reestimate_batchnorm(merged, (x, torch.zeros(7)), batch_size=3)
    assert needs_reestimation(fresh) == []
    torch.testing.assert_close(fresh.running_mean, x.mean(2).mean(0))
    torch.testing.assert_close(fresh.running_var, x.var(2).mean(0))
    assert fresh.momentum == net.momentum
    assert not fresh._forward_hooks


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.LazyBatchNorm1d(), "is not initialized"), (nn.BatchNorm1d(3, device="meta"), "meta")],
)
def test_weights_that_are_not_there_are_an_error_that_says_so(layer, message):
    net, data = nn.Sequential(nn.Linear(3, 3), layer), (torch.randn(4, 3), torch.zeros(4))
    whole = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match=message):
        reestimate_batchnorm(net, data)
    with pytest.raises(InputError, match=f"of the merged network .*{message}"):
        conjoin.repair(net, [whole], [data])
    with pytest.raises(InputError, match=f"of parent 2 .*{message}"):
        conjoin.repair(whole, [whole, net], [data])


class Both(nn.Module):
    """InstanceNorm of a batch, and then of one example without a batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(3, track_running_stats=True)

    def forward(self, x):
        return self.norm(x) + self.norm(x[0] + 9)


def test_instance_norm_of_one_example_counts_once():
    x = torch.randn(4, 3, 6)
    fresh = reestimate_batchnorm(Both(), [x]).norm
    of_each = torch.cat([x.mean(2), x[:1].mean(2) + 9])
    torch.testing.assert_close(fresh.running_mean, of_each.mean(0))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.Sequential(nn.Sequential(nn.SyncBatchNorm(2))), True),
        (nn.BatchNorm2d(2, track_running_stats=False), False),
        (nn.GroupNorm(1, 2), False),
        (nn.InstanceNorm2d(2, track_running_stats=True), True),
        (nn.InstanceNorm2d(2), False),
    ],
)
def test_what_has_batchnorm(module, expected):
    assert has_batchnorm(module) is expected


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_data_that_are_not_finite_are_refused(bad):
    x = torch.randn(300, 2)
    x[260, 1] = bad
    with pytest.raises(NonFiniteError, match="NaN or infinity, among examples 250 to 299"):
        reestimate_batchnorm(nn.BatchNorm1d(2), (x, torch.zeros(300)))


def test_what_is_no_module_is_said():
    state = nn.BatchNorm1d(2).state_dict()
    for function in (reestimate_batchnorm, needs_reestimation):
        with pytest.raises(InputError, match="not OrderedDict; load the state dict"):
            function(state)
