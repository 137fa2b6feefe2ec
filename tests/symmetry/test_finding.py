"""`find_symmetries`: what it refuses, what it leaves as it was; nothing wrong is trusted."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from symmetry_toys import groups_of, written
from torch import nn

from conjoin.errors import InputError, TraceError
from conjoin.experiments.digits.network import new_network
from conjoin.symmetry import find_symmetries
from conjoin.symmetry.groups import layout_of
from conjoin.symmetry.proof import largest_error, prove, random_orders, randomized
from conjoin.symmetry.rules import RULES
from conjoin.symmetry.solving import solve
from conjoin.symmetry.tracing import trace


class Call(nn.Module):
    """A network of layers a and b, with a forward given."""

    def __init__(self, function, inner: int = 6, outer: int = 6) -> None:
        super().__init__()
        self.function = function
        self.a = nn.Linear(4, inner)
        self.b = nn.Linear(outer, 2)

    def forward(self, x):
        return self.function(self, x)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


# --- what is refused ---


@pytest.mark.parametrize(
    "inputs",
    [torch.randn(1, 4), torch.tensor(1.0), (), {}, (torch.randn(3, 4), torch.randn(1, 4))],
)
def test_an_example_without_a_batch(inputs):
    with pytest.raises(InputError, match="a batch of two or more"):
        find_symmetries(_mlp(), inputs)


def test_an_example_that_is_no_tensor():
    with pytest.raises(InputError, match="must be tensors.*found int, NoneType"):
        find_symmetries(_mlp(), (torch.randn(2, 4), 3, None))


@pytest.mark.parametrize("inputs", [torch.randn(3, 5), {"y": torch.randn(3, 4)}])
def test_an_example_that_does_not_fit(inputs):
    with pytest.raises(InputError, match="Sequential does not run on the example inputs"):
        find_symmetries(_mlp(), inputs)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b(m.a(x)) if x.sum() > 0 else m.b(m.a(x).relu()),
        lambda m, x: m.b(m.a(x)) * len([None for _ in range(int(x.abs().sum().item()))]),
    ],
)
def test_what_depends_on_values_is_refused_with_advice(function):
    with pytest.raises(TraceError, match="Call cannot be traced.*no `if` on a tensor"):
        find_symmetries(Call(function), torch.ones(3, 4))


def test_what_is_random_is_refused():
    with pytest.raises(InputError, match="other or no finite outputs.*dropout"):
        find_symmetries(Call(lambda m, x: m.b(F.dropout(m.a(x)))), torch.randn(3, 4))


def test_what_gives_no_number_proves_nothing():
    with pytest.raises(InputError, match="no finite outputs"):
        find_symmetries(Call(lambda m, x: m.b(m.a(x)) * torch.nan), torch.randn(3, 4))


def test_what_does_not_run_in_float64_is_refused():
    model = Call(lambda m, x: m.b(m.a(x)) if x.dtype == torch.float32 else m.nothing)
    with pytest.raises(InputError, match="does not run in float64"):
        find_symmetries(model, torch.randn(3, 4))


def test_what_rounds_to_float32_on_its_way_is_proved_in_float64():
    """As the norms of many language models do; rounding would look like an error of a rule."""

    def function(m, x):
        y = m.a(x).to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) + torch.zeros(6)
        return m.b(y.to(x.dtype).softmax(-1, dtype=torch.float32).to(x.dtype))

    found = find_symmetries(Call(function), torch.randn(3, 4))
    assert groups_of(found.groups.values()) == written(["6: a.weight:0 a.bias:0 b.weight:1"])
    assert found.proof.error < 1e-12


# --- what it leaves as it was ---


def test_the_model_is_not_changed():
    """Not its parameters and buffers, to the bit, not its mode, its gradients, nor its dtype."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    model.train()
    model[3].eval()
    before = copy.deepcopy(model.state_dict())
    tensors = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    generator = torch.get_rng_state()
    found = find_symmetries(model, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert found.proof.guilty == ()
    assert len(found.groups) == 1
    after = model.state_dict(keep_vars=True)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name: id(tensor) for name, tensor in after.items()} == tensors
    assert [part.training for part in model] == [True, True, True, False]
    assert model[0].weight.grad is None
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_same_seed_gives_the_same():
    model, x = _mlp(), torch.randn(3, 4)
    one, other = find_symmetries(model, x, seed=3), find_symmetries(model, x, seed=3)
    assert one.layout == other.layout
    assert one.proof == other.proof


# --- what it tells ---


def test_by_hand():
    found = find_symmetries(_mlp(), torch.randn(3, 4))
    assert groups_of(found.groups.values()) == written(["6: 0.weight:0 0.bias:0 2.weight:1"])
    assert found.layout.pinned == {
        "an input": ("0.weight",),
        "an output": ("2.weight", "2.bias"),
    }
    assert (found.movable, found.parameters) == (24 + 6 + 18, 24 + 6 + 18 + 3)
    assert found.unknown == {}
    assert found.proof.error < 1e-9
    assert found.identity().is_identity()


def test_tied_weights_are_counted_once():
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False))
    model[2].weight = model[0].weight
    found = find_symmetries(model, torch.randint(0, 7, (3, 5)))
    # What goes into the layer is multiplied with the words; what comes out, too.
    assert groups_of(found.groups.values()) == written(
        ["6: 0.weight:1 1.weight:0 1.weight:1 1.bias:0"]
    )
    assert (found.movable, found.parameters) == (42 + 36 + 6, 42 + 36 + 6)
    assert found.layout.tensors["2.weight"] == found.layout.tensors["0.weight"]


@pytest.mark.parametrize("batch", [4, 6, 2])
def test_a_batch_as_large_as_the_channels(batch):
    """4 features, 6 units, a batch of 4 or 6: the batch is never taken for one of them."""
    function = lambda m, x: m.b(F.softmax(m.a(x), -1) @ (m.a(x).mT @ m.a(x)))  # noqa: E731
    found = find_symmetries(Call(function), torch.randn(batch, 4))
    assert groups_of(found.groups.values()) == written(["6: a.weight:0 a.bias:0 b.weight:1"])


def test_several_inputs_by_place_by_name_and_in_a_list():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x, y, *more):
            return self.b(torch.cat([self.a(x), self.a(y), *map(self.a, more)]))

    x, y, z = torch.randn(3, 4), torch.randn(5, 4), torch.randn(2, 4)
    expected = written(["6: a.weight:0 a.bias:0 b.weight:1"])
    for inputs in ((x, y), {"x": x, "y": y}, [x, y, z]):
        assert groups_of(find_symmetries(Two(), inputs).groups.values()) == expected


def test_a_network_that_takes_one_batch_size_only():
    function = lambda m, x: m.b(m.a(x).view(4, 6))  # noqa: E731
    found = find_symmetries(Call(function), torch.randn(4, 4))
    assert groups_of(found.groups.values()) == written(["6: a.weight:0 a.bias:0 b.weight:1"])


def test_a_model_without_parameters():
    found = find_symmetries(nn.ReLU(), torch.randn(3, 4))
    assert (dict(found.groups), found.movable, found.parameters) == ({}, 0, 0)


def test_frozen_weights_move_as_well():
    found = find_symmetries(_mlp().requires_grad_(False), torch.randn(3, 4))
    assert len(found.groups) == 1


def test_outputs_of_any_structure():
    function = lambda m, x: {"y": (m.b(m.a(x)), [m.a(x).sum(-1)]), "n": None}  # noqa: E731
    found = find_symmetries(Call(function), torch.randn(3, 4))
    assert groups_of(found.groups.values()) == written(["6: a.weight:0 a.bias:0 b.weight:1"])


def test_a_tensor_that_nothing_uses_is_pinned():
    model = Call(lambda m, x: m.b(m.a(x)))
    model.spare = nn.Parameter(torch.randn(5, 7))
    found = find_symmetries(model, torch.randn(3, 4))
    assert groups_of(found.groups.values()) == written(["6: a.weight:0 a.bias:0 b.weight:1"])
    assert found.layout.pinned["nothing uses it"] == ("spare",)


# --- operations without a rule ---


def test_an_unknown_operation_pins_what_it_touches_and_is_named():
    def function(m, x):
        y = m.a(x)
        return m.b(torch.linalg.svdvals(y[:, None] * y[:, :, None])) + m.d(m.c(x))

    model = Call(function)
    model.c, model.d = nn.Linear(4, 5), nn.Linear(5, 2)
    found = find_symmetries(model, torch.randn(3, 4))
    assert groups_of(found.groups.values()) == written(["5: c.weight:0 c.bias:0 d.weight:1"])
    assert found.unknown == {"aten._linalg_svd": 1}
    assert found.layout.pinned["no rule for aten._linalg_svd"] == ("a.weight", "a.bias", "b.weight")


def test_a_custom_operation_pins():
    with torch.library._scoped_library("conjoin_test", "FRAGMENT") as library:
        library.define("mixed(Tensor x) -> Tensor")
        library.impl("mixed", lambda x: x.cumsum(-1), "CompositeExplicitAutograd")
        library.impl("mixed", torch.empty_like, "Meta")
        found = find_symmetries(
            Call(lambda m, x: m.b(torch.ops.conjoin_test.mixed(m.a(x)))), torch.randn(3, 4)
        )
    assert dict(found.groups) == {}
    assert found.unknown == {"conjoin_test.mixed": 1}


@pytest.mark.parametrize("wrong", [lambda call: 1 / 0, lambda call: {}[0], lambda call: [(), ()]])
def test_a_form_that_a_rule_has_not_met_pins(wrong, monkeypatch):
    """A rule that fails, or gives axes that do not fit, is an unknown operation, never an error."""
    traced = trace(_mlp(), torch.randn(3, 4))
    monkeypatch.setitem(RULES, "aten.linear", wrong)
    solved = solve(traced)
    assert dict(layout_of(solved).groups) == {}
    assert solved.unknown == {"aten.linear": 2}


# --- wrong rules ---


def _free(call):
    """Say that nothing has to do with anything."""
    return [tuple(call.space.atom(size) for size in shape) for shape in call.shapes]


def test_a_wrong_rule_is_pinned_and_named(monkeypatch):
    monkeypatch.setitem(RULES, "aten.relu", _free)
    model, x = _mlp(), torch.randn(3, 4)
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
    model = _mlp()
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


# --- whole networks ---


def test_the_digits_network_has_twelve_groups():
    """Ten convolutions and two linear layers before the last one."""
    found = find_symmetries(new_network(0, width=1 / 16), torch.randn(3, 1, 32, 32))
    assert len(found.groups) == 12
    assert found.proof.guilty == ()
    for group in list(found.groups.values())[:10]:
        ends = sorted(name.rpartition(".")[2] for name, _ in group.members)
        assert ends == ["bias", "bias", "running_mean", "running_var", "weight", "weight", "weight"]
