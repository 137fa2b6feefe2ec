"""`find_symmetries`: what it refuses, what it leaves as it was, and what it tells."""

import copy

import pytest
import torch
import torch.nn.functional as F
from symmetry_toys import Call, groups_of, mlp, written
from torch import nn

from conjoin.errors import InputError, TraceError
from conjoin.experiments.digits.network import new_network
from conjoin.symmetry import find_symmetries
from conjoin.symmetry.groups import layout_of
from conjoin.symmetry.rules import RULES
from conjoin.symmetry.solving import solve
from conjoin.symmetry.tracing import trace

# --- what is refused ---


@pytest.mark.parametrize(
    "inputs",
    [torch.randn(1, 4), torch.tensor(1.0), (), {}, (torch.randn(3, 4), torch.randn(1, 4))],
)
def test_an_example_without_a_batch(inputs):
    with pytest.raises(InputError, match="a batch of two or more"):
        find_symmetries(mlp(), inputs)


def test_an_example_that_is_no_tensor():
    with pytest.raises(InputError, match="must be tensors.*found int, NoneType"):
        find_symmetries(mlp(), (torch.randn(2, 4), 3, None))


@pytest.mark.parametrize("inputs", [torch.randn(3, 5), {"y": torch.randn(3, 4)}])
def test_an_example_that_does_not_fit(inputs):
    with pytest.raises(InputError, match="Sequential does not run on the example inputs"):
        find_symmetries(mlp(), inputs)


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
    model, x = mlp(), torch.randn(3, 4)
    one, other = find_symmetries(model, x, seed=3), find_symmetries(model, x, seed=3)
    assert one.layout == other.layout
    assert one.proof == other.proof


# --- what it tells ---


def test_by_hand():
    found = find_symmetries(mlp(), torch.randn(3, 4))
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
    found = find_symmetries(mlp().requires_grad_(False), torch.randn(3, 4))
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
    traced = trace(mlp(), torch.randn(3, 4))
    monkeypatch.setitem(RULES, "aten.linear", wrong)
    solved = solve(traced)
    assert dict(layout_of(solved).groups) == {}
    assert solved.unknown == {"aten.linear": 2}


# --- whole networks ---


def test_the_digits_network_has_twelve_groups():
    """Ten convolutions and two linear layers before the last one."""
    found = find_symmetries(new_network(0, width=1 / 16), torch.randn(3, 1, 32, 32))
    assert len(found.groups) == 12
    assert found.proof.guilty == ()
    for group in list(found.groups.values())[:10]:
        ends = sorted(name.rpartition(".")[2] for name, _ in group.members)
        assert ends == ["bias", "bias", "running_mean", "running_var", "weight", "weight", "weight"]
