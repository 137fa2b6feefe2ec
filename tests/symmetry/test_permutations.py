"""Permutations: what they do to tensors, alone, one after another, and back; on disk."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conjoin.checkpoints import save
from conjoin.errors import CheckpointError, InputError, MismatchError
from conjoin.symmetry import Permutations, Symmetries, find_symmetries


class Net(nn.Module):
    """Heads with units in each, a grouped convolution, a norm with statistics, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 12)
        self.qkv = nn.Linear(12, 24)
        self.out = nn.Linear(8, 12)
        self.grouped = nn.Conv1d(12, 6, 1, groups=2)
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Conv1d(6, 12, 1)
        self.head = nn.Linear(12, 11, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x):
        x = self.words(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.last(self.norm(self.grouped(x.mT)).relu()).mT
        return self.head(x) * self.scale


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net()
        for buffer in (made.norm.running_mean, made.norm.running_var):
            buffer.copy_(torch.rand(6) + 0.5)
    return made.double().eval()


@pytest.fixture(scope="module")
def found(net) -> Symmetries:
    return find_symmetries(net.float(), TOKENS)


TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def drawn(found):
    """Three random elements of the whole group."""
    generator = torch.Generator().manual_seed(1)
    return SimpleNamespace(**{name: found.sample(generator) for name in "abc"})


def _equal(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_the_network_has_groups_within_groups(found):
    """Heads, units of queries and keys, units of values; 2 x 6 and 2 x 3 of the convolution."""
    shapes = sorted((*group.copies, group.size) for group in found.groups.values())
    assert shapes == [(2,), (2,), (2, 3), (2, 4), (2, 4), (2, 6)]
    assert found.proof.guilty == ()


def test_the_function_is_kept(net, drawn):
    other = drawn.a.apply(net)
    assert torch.allclose(other(TOKENS), net(TOKENS), atol=1e-5)
    assert not torch.equal(other.qkv.weight, net.qkv.weight)


def test_a_module_and_its_mapping_agree(net, drawn):
    """Also where a tied tensor has two names, and for tensors that the layout does not know."""
    mapping = {**net.state_dict(), "more": torch.ones(3)}
    found = drawn.a.apply(mapping)
    assert _equal({n: t for n, t in found.items() if n != "more"}, drawn.a.apply(net).state_dict())
    assert torch.equal(found["more"], torch.ones(3))
    assert torch.equal(found["head.weight"], found["words.weight"])
    assert not torch.equal(found["head.weight"], net.head.weight)


def test_ties_are_kept(net, drawn):
    other = drawn.a.apply(net)
    assert other.head.weight is other.words.weight
    assert other.head.weight is not net.head.weight


def test_the_input_is_not_changed(net, drawn):
    before = copy.deepcopy(net.state_dict())
    mapping = dict(net.state_dict())
    drawn.a.apply(net)
    drawn.a.apply(mapping)
    assert _equal(net.state_dict(), before)
    assert _equal(mapping, before)


def test_one_after_another(net, drawn):
    state = net.state_dict()
    twice = drawn.b.apply(drawn.a.apply(state))
    assert _equal(drawn.b.after(drawn.a).apply(state), twice)
    assert not _equal(drawn.a.after(drawn.b).apply(state), twice)


def test_group_laws(drawn, found):
    a, b, c, one = drawn.a, drawn.b, drawn.c, found.identity()
    assert a.after(b.after(c)) == a.after(b).after(c)
    assert a.after(one) == one.after(a) == a
    assert a.after(a.inverse()) == a.inverse().after(a) == one
    assert a.inverse().inverse() == a
    assert a.after(b).inverse() == b.inverse().after(a.inverse())
    assert a != b
    assert a.after(b) != b.after(a)


def test_the_inverse_puts_back(net, drawn):
    state = net.state_dict()
    assert _equal(drawn.a.inverse().apply(drawn.a.apply(state)), state)


def test_the_identity(net, found, drawn):
    one = found.identity()
    assert one.is_identity()
    assert not drawn.a.is_identity()
    assert _equal(one.apply(net.state_dict()), net.state_dict())


def test_position_i_becomes_position_order_i(found):
    """By hand: heads, then the units of values within the new heads, in one tensor."""
    heads, units = [g for g in found.groups.values() if ("out.weight", 1) in g.members]
    assert (heads.size, heads.copies, units.copies) == (2, (), (2,))
    orders = {
        heads.name: torch.tensor([1, 0]),
        units.name: torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]]),
    }
    weight = torch.arange(8.0).expand(12, 8)
    moved = Permutations(found.layout, orders).tensor("out.weight", weight)
    # Head 1 comes first, its units in their order; then head 0 with its last unit in front.
    assert moved[0].tolist() == [4, 5, 6, 7, 3, 0, 1, 2]


def test_statistics_move_with_their_channel(net, drawn):
    other = drawn.a.apply(net)
    order = [net.norm.running_mean.tolist().index(x) for x in other.norm.running_mean.tolist()]
    assert order != list(range(6))
    for name in ("running_mean", "running_var", "weight", "bias"):
        assert torch.equal(getattr(other.norm, name), getattr(net.norm, name)[order])
    assert torch.equal(other.grouped.bias, net.grouped.bias[order])
    assert torch.equal(other.scale, net.scale)


def test_what_has_the_names_of_the_parameters_can_be_reordered(net, drawn):
    """An optimizer's moments are like gradients: those of the reordered network are reordered."""
    other = drawn.a.apply(net)
    for one in (net, other):
        one.zero_grad()
        one(TOKENS).square().mean().backward()
    moments = {name: p.grad for name, p in net.named_parameters()}
    mapping = {**dict(net.state_dict()), **moments, "head.weight": moments["words.weight"]}
    moved = drawn.a.apply(mapping)
    for name, parameter in other.named_parameters():
        assert torch.allclose(moved[name], parameter.grad, atol=1e-5)
    net.zero_grad(set_to_none=True)


def test_saved_and_loaded(tmp_path, net, drawn):
    drawn.a.save(tmp_path / "a.safetensors")
    loaded = Permutations.load(tmp_path / "a.safetensors")
    assert loaded == drawn.a
    assert loaded.after(drawn.b) == drawn.a.after(drawn.b)
    assert _equal(loaded.apply(net.state_dict()), drawn.a.apply(net.state_dict()))


def test_saved_without_groups(tmp_path):
    found = find_symmetries(nn.Linear(3, 2), torch.randn(4, 3))
    found.identity().save(tmp_path / "none.safetensors")
    assert Permutations.load(tmp_path / "none.safetensors") == found.identity()


def test_another_file_is_refused(tmp_path):
    save({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="has no permutations"):
        Permutations.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "order",
    [
        torch.tensor([0, 0]),
        torch.tensor([1, 2]),
        torch.tensor([0, 1, 2]),
        torch.tensor([[1, 0]]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([1, 0], dtype=torch.int32),
        torch.tensor(1),
    ],
)
def test_orders_that_are_none_are_refused(found, order):
    heads = next(group for group in found.groups.values() if not group.copies)
    with pytest.raises(InputError, match="must be permutations of 2 positions"):
        Permutations(found.layout, {heads.name: order})


def test_orders_of_unknown_groups_are_refused(found):
    with pytest.raises(InputError, match="no group 'nonsense'"):
        Permutations(found.layout, {"nonsense": torch.tensor([1, 0])})


def test_other_networks_are_refused(net, drawn):
    state = net.state_dict()
    with pytest.raises(MismatchError, match=r"out.weight.*\[12, 8\]"):
        drawn.a.apply({**state, "out.weight": torch.zeros(12, 9)})
    with pytest.raises(MismatchError, match="'out.weight'"):
        drawn.a.apply({name: t for name, t in state.items() if name != "out.weight"})
    with pytest.raises(MismatchError):
        drawn.a.apply(nn.Linear(3, 2))
    with pytest.raises(MismatchError, match="'nonsense'"):
        drawn.a.tensor("nonsense", torch.ones(2))
    other = find_symmetries(nn.Linear(3, 2), torch.randn(4, 3)).identity()
    with pytest.raises(MismatchError, match="different structure"):
        drawn.a.after(other)
