"""BatchNorm that normalizes by the mixture of all models' data."""

import copy

import pytest
import torch
from torch import nn

from conjoin.coupling import pooled_normalization
from conjoin.coupling.training import Learner, Recipe, train_models
from conjoin.errors import InputError


def _layers(kind, count, channels=3, **options):
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        layer = kind(channels, dtype=torch.float64, **options)
        for tensor in (layer.running_mean, layer.weight, layer.bias):
            if tensor is not None:
                with torch.no_grad():
                    tensor.copy_(torch.randn(channels, generator=generator, dtype=torch.float64))
        layer.running_var.copy_(
            torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5
        )
        made.append(layer)
    return made


SHAPES = {nn.BatchNorm1d: (7, 3), nn.BatchNorm2d: (5, 3, 2, 4), nn.BatchNorm3d: (2, 3, 2, 2, 3)}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", list(SHAPES))
def test_it_is_the_batch_norm_of_the_pooled_moments(kind, affine, count):
    layers = _layers(kind, count, affine=affine)
    own, *others = layers
    before = copy.deepcopy(layers)
    x = torch.randn(SHAPES[kind], dtype=torch.float64) * 2 + 1
    with pooled_normalization(layers):
        found = own(x)
    flat = x.transpose(0, 1).flatten(1)
    means = torch.stack([flat.mean(1), *(o.running_mean for o in others)])
    variances = torch.stack([flat.var(1, correction=0), *(o.running_var for o in others)])
    mean = means.mean(0)
    var = (variances + (means - mean) ** 2).mean(0)
    expected = nn.functional.batch_norm(x, mean, var, own.weight, own.bias, eps=own.eps)
    torch.testing.assert_close(found, expected)
    # Running statistics are those of its own data, as without.
    plain = before[0]
    plain(x)
    torch.testing.assert_close(own.running_mean, plain.running_mean)
    torch.testing.assert_close(own.running_var, plain.running_var)
    assert own.num_batches_tracked == plain.num_batches_tracked == 1
    for other, old in zip(others, before[1:], strict=True):
        assert torch.equal(other.running_mean, old.running_mean)


def test_where_the_others_have_its_own_moments_it_is_plain_batch_norm():
    a, b = _layers(nn.BatchNorm1d, 2)
    x = torch.randn(50, 3, dtype=torch.float64)
    b.running_mean.copy_(x.mean(0))
    b.running_var.copy_(x.var(0, correction=0))
    expected = copy.deepcopy(a)(x)
    with pooled_normalization({"a": a, "b": b}):
        torch.testing.assert_close(a(x), expected)


def test_a_plain_average_of_batches_is_kept():
    a, b = _layers(nn.BatchNorm1d, 2, momentum=None)
    plain = copy.deepcopy(a)
    with pooled_normalization([a, b]):
        for seed in range(3):
            x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).double()
            a(x)
            plain(x)
    torch.testing.assert_close(a.running_mean, plain.running_mean)
    torch.testing.assert_close(a.running_var, plain.running_var)


def test_gradients_are_those_of_the_formula():
    a, b = _layers(nn.BatchNorm2d, 2)
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    with pooled_normalization([a, b]):
        assert torch.autograd.gradcheck(a, (x,))
    a.weight.grad = a.bias.grad = None
    with pooled_normalization([a, b]):
        a(x).square().sum().backward()
    assert a.weight.grad.abs().sum() > 0
    assert b.weight.grad is None


def test_eval_mode_and_what_comes_after_are_plain():
    a, b = _layers(nn.BatchNorm1d, 2)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = copy.deepcopy(a).eval()(x)
    with pooled_normalization([a, b]):
        torch.testing.assert_close(a.eval()(x), expected)
    assert "forward" not in vars(a)
    with pytest.raises(KeyError), pooled_normalization([a, b]):
        raise KeyError
    assert "forward" not in vars(a)
    assert "forward" not in vars(b)


def test_an_own_forward_is_put_back():
    a, b = _layers(nn.BatchNorm1d, 2)
    x = torch.randn(4, 3, dtype=torch.float64)
    plain, calls = a.forward, []

    def hooked(x):  # as accelerate does
        calls.append(x)
        return plain(x)

    a.forward = hooked
    with pooled_normalization([a, b]):
        a(x)
        assert not calls  # it would not be pooled
        a.eval()(x)
        assert len(calls) == 1
    a(x)
    assert len(calls) == 2
    assert "forward" not in vars(b)


def test_blocks_may_be_nested():
    a, b, c = _layers(nn.BatchNorm1d, 3)
    x = torch.randn(4, 3, dtype=torch.float64)
    of_two, of_three = copy.deepcopy([a, b]), copy.deepcopy([a, b, c])
    with pooled_normalization(of_two):
        first, again = of_two[0](x), of_two[0](x)
    with pooled_normalization(of_three):
        inner = of_three[0](x)
    with pooled_normalization([a, b]):
        kept = [t.clone() for t in (a.running_mean, a.running_var)]
        torch.testing.assert_close(a(x), first)
        a.running_mean.copy_(kept[0])
        a.running_var.copy_(kept[1])
        with pooled_normalization([a, b, c]):
            torch.testing.assert_close(a(x), inner)
        torch.testing.assert_close(a(x), again)
    assert not any("forward" in vars(layer) for layer in (a, b, c))


def test_low_precision_is_computed_in_float32():
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    x = torch.randn(9, 2)
    with pooled_normalization([a, b]):
        wide, low = copy.deepcopy(a)(x), a(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert wide.dtype == torch.float32
    assert a.running_mean.dtype == torch.float32


def test_layers_without_running_statistics_are_left_alone():
    a, b = (nn.BatchNorm1d(2, track_running_stats=False) for _ in range(2))
    x = torch.randn(5, 2)
    expected = a(x)
    with pooled_normalization([a, b]):
        torch.testing.assert_close(a(x), expected)


def test_what_cannot_be_pooled_is_refused():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="two models"), pooled_normalization([net]):
        pass
    other = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    with pytest.raises(InputError, match="different"), pooled_normalization([net, other]):
        pass
    wider = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="'1'"), pooled_normalization([net, wider]):
        pass
    assert "forward" not in vars(net[1])


class _StopError(Exception):
    pass


def _learners():
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    def batches(epoch):
        while True:
            x = torch.randn(8, 3)
            yield x, (x[:, 0] > 0).long()

    def loss(module, batch):
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    return {name: Learner(net, batches, loss, seed) for seed, name in enumerate("ab")}


def _sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path):
    torch.manual_seed(0)
    learners = _learners()
    recipe = Recipe(3, 4, _sgd, pooled=True)
    whole = train_models(learners, recipe, strength=1.0)

    def stop(done, total):
        if done == 9:
            raise _StopError

    with pytest.raises(_StopError):
        train_models(learners, recipe, strength=1.0, work=tmp_path, on_step=stop)
    again = train_models(learners, recipe, strength=1.0, work=tmp_path)
    for name, module in whole.modules.items():
        state = again.modules[name].state_dict()
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
        assert all("forward" not in vars(part) for part in module.modules())
    # And it is another training than that with private statistics.
    private = train_models(learners, Recipe(3, 4, _sgd), strength=1.0)
    assert not torch.equal(private.modules["a"][0].weight, whole.modules["a"][0].weight)
