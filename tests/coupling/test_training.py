"""The training loop: each model draws for itself, and a killed training goes on with its bits."""

import math
from itertools import pairwise

import pytest
import torch
from coupling_toys import Net, Tensors, adamw, images, sgd, values
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from conjoin.coupling import Coupling, copies_of, over_time
from conjoin.coupling.training import GAPS, Learner, Recipe, mixed_seed, train_models
from conjoin.errors import DataError, InputError, TrainingError

NESTEROV = sgd(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


def _one_cycle(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)


RECIPE = Recipe(epochs=3, steps=5, optimizer=NESTEROV, scheduler=_one_cycle, clip=5.0)


def _loss(net, batch):
    x, y = batch
    return F.cross_entropy(net(x), y)


def _learner(seed, start=None, shuffle=True):
    """A learner with a loader of three batches, shuffled from the global generator."""
    torch.manual_seed(0)
    module = start or Net()
    loader = DataLoader(
        TensorDataset(*images(24, seed=seed, dtype=torch.float32)), batch_size=8, shuffle=shuffle
    )
    return Learner(module, lambda epoch: loader, _loss, seed)


def _learners(*seeds):
    return {name: _learner(seed) for name, seed in zip("abc", seeds, strict=False)}


def _assert_same(one, other):
    assert list(one.modules) == list(other.modules)
    for name, module in one.modules.items():
        state = other.modules[name].state_dict()
        for tensor, value in module.state_dict().items():
            assert torch.equal(value, state[tensor]), (name, tensor)
    assert one.gaps == other.gaps


@pytest.mark.parametrize("optimizer", [NESTEROV, adamw(0.01)])
def test_strength_0_is_independent_training_bit_for_bit(optimizer):
    """With dropout, BatchNorm and shuffling: no model sees what the other draws."""
    recipe = Recipe(epochs=2, steps=5, optimizer=optimizer)
    together = train_models(_learners(1, 2), recipe, strength=0.0)
    for name, learner in _learners(1, 2).items():
        alone = train_models({name: learner}, recipe)
        state = alone.modules[name].state_dict()
        for tensor, value in together.modules[name].state_dict().items():
            assert torch.equal(value, state[tensor]), (name, tensor)
    others = train_models(_learners(1, 3), recipe, strength=0.0)
    assert torch.equal(
        others.modules["a"].classifier.weight, together.modules["a"].classifier.weight
    )
    coupled = train_models(_learners(1, 2), recipe, strength=1.0)
    assert not torch.equal(
        coupled.modules["a"].classifier.weight, together.modules["a"].classifier.weight
    )


def test_the_result_is_that_of_a_plain_loop():
    """Without random numbers: against a loop written here."""
    torch.manual_seed(0)
    start = Net(dropout=0.0)
    learners = {name: _learner(seed, start, shuffle=False) for name, seed in (("a", 1), ("b", 2))}
    trained = train_models(learners, RECIPE, strength=1.0)
    nets = copies_of(start, ["a", "b"])
    models = {name: (net, NESTEROV(net.parameters())) for name, net in nets.items()}
    schedulers = [_one_cycle(optimizer, 15) for _, optimizer in models.values()]
    coupling = Coupling(models, 1.0)
    for _ in range(3):
        batches = {name: list(learner.batches(0)) for name, learner in learners.items()}
        for step in range(5):
            for name, (net, _) in models.items():
                net.zero_grad()
                _loss(net, batches[name][step % 3]).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            coupling.step()
            for scheduler in schedulers:
                scheduler.step()
    for name, net in nets.items():
        found = trained.modules[name].state_dict()
        for tensor, value in net.state_dict().items():
            torch.testing.assert_close(found[tensor], value, rtol=1e-4, atol=1e-5)


def test_the_given_modules_are_left_and_the_new_ones_are_in_eval_mode():
    learners = _learners(1, 2)
    before = values(learners["a"].module)
    random = torch.get_rng_state()
    trained = train_models(learners, RECIPE, strength=1.0)
    assert torch.equal(torch.get_rng_state(), random)  # nor is the global generator touched
    assert all(torch.equal(before[n], p) for n, p in learners["a"].module.named_parameters())
    assert not any(module.training for module in trained.modules.values())
    assert all(p.is_contiguous() for p in trained.modules["a"].parameters())


class _KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("strength", "optimizer"),
    [
        (0.0, NESTEROV),
        (1.0, NESTEROV),
        (1.0, adamw(0.01)),
        (math.inf, adamw(0.01)),
        ({"classifier.*": 0.0, "*": math.inf}, NESTEROV),
        (over_time({0: 0.1, 7: 0.1, 8: math.inf}), NESTEROV),
    ],
    ids=["0", "1", "1, AdamW", "inf", "trunk", "tied finish"],
)
@pytest.mark.parametrize("killed_at", [3, 7, 10, 12])
def test_a_killed_training_goes_on_with_the_same_bits(strength, optimizer, killed_at, tmp_path):
    recipe = Recipe(epochs=3, steps=5, optimizer=optimizer, scheduler=_one_cycle, clip=5.0)
    whole = train_models(_learners(1, 2), recipe, strength=strength)
    seen = []

    def killed(step, total):
        assert total == 15
        seen.append(step)
        if step == killed_at:
            raise _KilledError

    with pytest.raises(_KilledError):
        train_models(_learners(1, 2), recipe, strength=strength, work=tmp_path, on_step=killed)
    assert seen == list(range(1, killed_at + 1))
    seen.clear()
    resumed = train_models(
        _learners(1, 2),
        recipe,
        strength=strength,
        work=tmp_path,
        on_step=lambda step, _: seen.append(step),
    )
    # From the last whole epoch on; an epoch is kept once its last step is reported.
    done = (killed_at - 1) // 5 * 5
    assert seen == list(range(done + 1, 16))
    _assert_same(resumed, whole)
    again = train_models(_learners(1, 2), recipe, strength=strength, work=tmp_path)
    _assert_same(again, whole)  # nothing is left to be done


def test_a_file_that_was_being_written_is_left_alone(tmp_path):
    (tmp_path / "epoch.partial").write_bytes(b"half of it")
    whole = train_models(_learners(1, 2), RECIPE, strength=1.0)
    _assert_same(train_models(_learners(1, 2), RECIPE, strength=1.0, work=tmp_path), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch.pt"]


def test_the_gap_is_measured_at_equal_distances_and_at_the_end():
    trained = train_models(_learners(1, 2), RECIPE, strength=1.0)
    assert [step for step, _ in trained.gaps] == list(range(1, 16))  # fewer steps than GAPS
    _, gap = trained.gaps[-1]
    assert set(gap) == {"block_1.0", "block_2.0", "classifier"}
    (a, b) = (module.classifier for module in trained.modules.values())
    apart = sum(
        (p - q).square().sum() for p, q in zip(a.parameters(), b.parameters(), strict=True)
    ).item()
    size = sum(p.square().sum() for m in (a, b) for p in m.parameters()).item() / 2
    assert gap["classifier"] == pytest.approx(math.sqrt(apart / size), rel=1e-4)
    assert train_models({"a": _learner(1)}, RECIPE).gaps == ()


def test_a_long_training_measures_the_gap_as_often_as_it_is_to():
    def learner(optimum):
        return Learner(
            Tensors(w=[0.5]), lambda epoch: [optimum], lambda net, t: (net.w - t).square().sum(), 0
        )

    learners = {"a": learner(1.0), "b": learner(-1.0)}
    trained = train_models(learners, Recipe(1, 90, sgd(0.1)), strength=1.0)
    steps = [step for step, _ in trained.gaps]
    assert len(steps) == GAPS
    assert steps[-1] == 90
    assert {b - a for a, b in pairwise(steps)} == {2, 3}


def test_three_models():
    trained = train_models(_learners(1, 2, 3), RECIPE, strength=math.inf)
    first, *others = (values(module) for module in trained.modules.values())
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
    means = [module.block_1[1].running_mean for module in trained.modules.values()]
    assert not torch.equal(means[0], means[1])  # statistics stay private


def test_batches_are_gone_through_again_in_a_new_order():
    seen = []

    def loss(net, batch):
        seen.append(batch[0].tolist())
        return net.w.sum() * 0

    loader = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=3, shuffle=True)
    learner = Learner(Tensors(w=[1.0]), lambda epoch: loader, loss, 7)
    train_models({"a": learner}, Recipe(2, 6, sgd(0.1)))
    rounds = [seen[n] + seen[n + 1] for n in range(0, 12, 2)]
    assert all(sorted(each) == list(range(6)) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3
    first = list(seen)
    seen.clear()
    torch.manual_seed(99)  # the global generator has no say in it
    train_models({"a": learner}, Recipe(2, 6, sgd(0.1)))
    assert seen == first


def test_epochs_are_counted_from_0():
    asked = []

    def batches(epoch):
        asked.append(epoch)
        return [1.0, 2.0]

    learner = Learner(Tensors(w=[1.0]), batches, lambda net, batch: net.w.sum() * batch, 0)
    trained = train_models({"a": learner}, Recipe(3, 2, sgd(0.1)))
    assert asked == [0, 1, 2]
    assert trained.modules["a"].w.item() == pytest.approx(1.0 - 0.1 * 9)


def test_the_gradient_is_clipped_before_it_is_shared():
    def learner(scale):
        return Learner(Tensors(w=[0.0]), lambda epoch: [scale], lambda net, s: s * net.w.sum(), 0)

    learners = {"a": learner(100.0), "b": learner(-0.5)}
    recipe = Recipe(1, 1, sgd(0.1), clip=1.0)
    trained = train_models(learners, recipe, strength=math.inf)
    assert trained.modules["a"].w.item() == pytest.approx(-0.1 * (1.0 - 0.5) / 2, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("strength", [0.0, 1.0, math.inf])
def test_weights_that_are_not_finite_stop_the_training(bad, strength, tmp_path):
    def learner(factor):
        return Learner(
            Tensors(w=[1.0]), lambda epoch: [factor if epoch == 1 else 1.0],
            lambda net, f: net.w.sum() * f, 0,
        )  # fmt: skip

    learners = {"fine": learner(1.0), "broken": learner(bad)}
    name = "broken" if strength == 0 else "fine|broken"
    with pytest.raises(TrainingError, match=f"'({name})' are no longer finite after epoch 2"):
        train_models(learners, Recipe(4, 1, sgd(0.1)), strength=strength, work=tmp_path)
    # What was stored is the epoch before, and not the broken one.
    assert torch.load(tmp_path / "epoch.pt", weights_only=True)["epoch"] == 1


def _with_inputs(*seeds):
    """Learners whose batches come in order, with what their modules take of a batch."""
    found = {}
    for name, seed in zip("abc", seeds, strict=False):
        plain = _learner(seed, shuffle=False)
        found[name] = Learner(plain.module, plain.batches, _loss, seed, lambda batch: batch[0])
    return found


def test_what_is_no_training():
    with pytest.raises(InputError, match="at least one model"):
        train_models({}, RECIPE)
    for epochs, steps in ((0, 5), (5, 0)):
        with pytest.raises(InputError, match=f"{epochs} epochs of {steps} steps are no training"):
            train_models(_learners(1), Recipe(epochs, steps, NESTEROV))
    empty = Learner(Net(), lambda epoch: [], _loss, 0)
    with pytest.raises(DataError, match="no batch"):
        train_models({"a": empty}, RECIPE)


def test_mixed_seeds():
    seeds = {mixed_seed(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed(1, 2) == mixed_seed(1, 2)
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
