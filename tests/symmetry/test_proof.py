"""Proof by running: a rule that is wrong is found out, pinned and named."""

import dataclasses

import pytest
import torch
from symmetry_toys import Call, mlp
from torch import nn

from conjoin.symmetry import find_symmetries
from conjoin.symmetry.proof import largest_error, prove, random_orders, randomized
from conjoin.symmetry.rules import RULES

# --- wrong rules ---


def _free(call):
    """Say that nothing has to do with anything."""
    return [tuple(call.space.atom(size) for size in shape) for shape in call.shapes]


def test_a_wrong_rule_is_pinned_and_named(monkeypatch):
    monkeypatch.setitem(RULES, "aten.relu", _free)
    model, x = mlp(), torch.randn(3, 4)
    found = find_symmetries(model, x)
    assert set(found.proof.guilty) == {"0.weight:0", "2.weight:1"}
    assert dict(found.groups) == {}
    named = "the outputs changed when it was reordered: an error of conjoin's rules"
    assert set(found.layout.pinned[named]) == {"0.weight", "0.bias", "2.weight"}
    assert found.proof.error <= 1e-9
    assert torch.equal(found.sample(torch.Generator()).apply(model)(x), model(x))


def test_only_the_guilty_group_is_pinned(monkeypatch):
    monkeypatch.setitem(RULES, "aten.sigmoid", _free)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 7), nn.ReLU(),
        nn.Linear(7, 2),
    )  # fmt: skip
    found = find_symmetries(model, torch.randn(3, 4))
    assert set(found.proof.guilty) == {"2.weight:0", "4.weight:1"}
    assert sorted(group.size for group in found.groups.values()) == [5, 7]


def test_exchanged_operands_are_noticed(monkeypatch):
    right = RULES["aten.cat"]

    def wrong(call):
        return right(dataclasses.replace(call, args=[call.args[0][::-1], *call.args[1:]]))

    monkeypatch.setitem(RULES, "aten.cat", wrong)
    model = Call(lambda m, x: m.b(torch.cat([m.a(x), m.c(x)], 1)), 6, 12)
    model.c = nn.Linear(4, 6)
    assert set(find_symmetries(model, torch.randn(3, 4)).proof.guilty) == {
        "a.weight:0",
        "b.weight:1",
    }


class _Keeping(nn.Module):
    """Keeps in eval mode what it computed from a weight, and forgets it in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.rand(6))
        self.kept = {}

    def train(self, mode=True):
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.b(self.a(x) * self.scale.exp())
        if "scale" not in self.kept:
            self.kept["scale"] = self.scale.exp().detach()
        return self.b(self.a(x) * self.kept["scale"])


def test_what_a_model_keeps_of_a_run_is_no_constant_and_no_error():
    model, x = _Keeping().eval(), torch.randn(3, 4)
    expected = model(x)
    kept = model.kept["scale"]
    found = find_symmetries(model, x)
    assert found.proof.guilty == ()
    (group,) = found.groups.values()
    assert (group.size, ("scale", 0) in group.members) == (6, True)
    reordered = found.sample(torch.Generator().manual_seed(0)).apply(model)
    assert not reordered.training
    assert torch.allclose(reordered(x), expected, atol=1e-6)
    assert model.kept["scale"] is kept


def test_a_norm_whose_weight_stays_is_noticed(monkeypatch):
    """Its weights are all one at first, and hide that."""

    def wrong(call):
        weights, call.args[2:4] = call.args[2:4], [None, None]
        made = real_norm(call)
        call.args[2:4] = weights
        return made

    real_norm = RULES["aten.native_layer_norm"]
    monkeypatch.setitem(RULES, "aten.native_layer_norm", wrong)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    assert set(find_symmetries(model, torch.randn(3, 4)).proof.guilty) >= {"0.weight:0"}


def test_statistics_that_stay_are_noticed(monkeypatch):
    """They are zero and one at first, and hide that."""

    def wrong(call):
        statistics, call.args[3:5] = call.args[3:5], [None, None]
        made = real_norm(call)
        call.args[3:5] = statistics
        return made

    name = "aten._native_batch_norm_legit_no_training"
    real_norm = RULES[name]
    monkeypatch.setitem(RULES, name, wrong)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    assert "0.weight:0" in find_symmetries(model, torch.randn(3, 4)).proof.guilty


def test_a_head_of_zeros_hides_nothing(monkeypatch):
    monkeypatch.setitem(RULES, "aten.relu", _free)
    model = mlp()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    assert set(find_symmetries(model, torch.randn(3, 4)).proof.guilty) == {
        "0.weight:0",
        "2.weight:1",
    }


def test_what_is_found_anew_after_a_pin_is_proved_too(monkeypatch):
    """3 x 4 units, softmax over the 3: the 4 must not be reordered apart for each of the 3."""

    def wrong(call):
        return [call.axes(0)]  # forgets that it mixes

    monkeypatch.setitem(RULES, "aten._softmax", wrong)
    model = Call(lambda m, x: m.b(m.a(x).view(-1, 3, 4).softmax(1).flatten(1)), 12, 12)
    x = torch.randn(3, 4)
    found = find_symmetries(model, x)
    assert found.proof.guilty
    assert prove(model, found.layout, x, seed=5).guilty == ()


# --- the parts of the proof ---


def test_random_orders_leave_no_group_as_it_is():
    layout = find_symmetries(Call(lambda m, x: m.b(m.a(x)), 2, 2), torch.randn(3, 4)).layout
    for seed in range(10):
        orders = random_orders(layout, torch.Generator().manual_seed(seed))
        assert [order.tolist() for order in orders.values()] == [[1, 0]]


def test_randomized_leaves_no_weight_or_statistic_constant():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    nn.init.zeros_(model[2].weight)
    example = randomized(model, torch.Generator().manual_seed(0))
    for name, tensor in example.state_dict().items():
        if tensor.dim():
            assert tensor.dtype == torch.float64
            assert len(tensor.unique()) == tensor.numel(), name
    assert bool((example[1].running_var > 0).all())
    assert torch.equal(example[0].weight, model[0].weight.double())
    assert bool((model[2].weight == 0).all())


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, INF], [2.0, INF], 0.5),  # an infinite number hides no other
        ([1.0, NAN], [1.0, NAN], 0.0),
        ([1.0, NAN], [1.0, INF], INF),
        ([1.0, -INF], [1.0, INF], INF),
        ([1.0, 3.0], [1.0, INF], INF),
        ([1.0, INF], [1.0, 3.0], INF),
        ([NAN, NAN], [NAN, NAN], INF),  # which shows nothing
        ([1, 2], [1, 2], 0.0),
        ([1, 2], [2, 1], INF),
        ([True], [False], INF),
        ([1 + 1j], [1 + 2j], 1 / 5**0.5),
        ([1.0], [1.0, 2.0], INF),
        ([], [], 0.0),
    ],
)
def test_largest_error(found, expected, error):
    assert largest_error([torch.tensor(found)], [torch.tensor(expected)]) == pytest.approx(error)
