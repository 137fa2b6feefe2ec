"""What an example does not show: positions of a table that only longer texts read."""

import pytest
import torch
from symmetry_toys import groups_of, parameter, written
from torch import nn

from conjoin.symmetry import find_symmetries
from conjoin.symmetry.groups import layout_of
from conjoin.symmetry.solving import solve
from conjoin.symmetry.tracing import trace

WORDS = torch.randint(20, (2, 12), generator=torch.Generator().manual_seed(0))


class Texts(nn.Module):
    """Words, and something for each place of at most 12: an output for each kind of table."""

    def __init__(self, tables) -> None:
        super().__init__()
        self.tables = tables
        self.places = nn.ParameterDict(
            {name: parameter(*size) for name, (_, size) in tables.items()}
        )
        self.words = nn.ModuleDict({name: nn.Embedding(20, 6) for name in tables})
        self.heads = nn.ModuleDict({name: nn.Linear(6, 4) for name in tables})

    def forward(self, t):
        return {
            name: self.heads[name](
                (self.words[name](t) + function(self.places[name], t.shape[1])).relu()
            )
            for name, (function, _) in self.tables.items()
        }


TABLES = {
    "sliced": (lambda p, n: p[:n], (12, 6)),
    "narrowed": (lambda p, n: p.narrow(0, 0, n), (12, 6)),
    "the_last_ones": (lambda p, n: p[12 - n :], (12, 6)),
    "from_the_middle": (lambda p, n: p[2 : 2 + n], (14, 6)),
    "transposed": (lambda p, n: p[:, :n].T, (6, 12)),
    "after_a_product": (lambda p, n: (p @ p.T @ p).tanh()[:n], (12, 6)),
    "after_a_scale": (lambda p, n: (p * 2).view(12, 2, 3)[:n].flatten(1), (12, 6)),
    "of_a_batch": (lambda p, n: p.expand(2, -1, -1)[:1, :n], (1, 12, 6)),
    "split": (lambda p, n: p.split([n, 12 - n])[0], (12, 6)),
    "numbered": (lambda p, n: p[torch.arange(n)], (12, 6)),
    "looked_up": (lambda p, n: nn.functional.embedding(torch.arange(n), p), (12, 6)),
    "after_a_softmax": (lambda p, n: p.softmax(0)[:n], (12, 6)),
}


def test_a_table_of_positions_that_is_longer_than_the_example():
    """With the symmetries of 9 words, what is computed of all 12 stays what it was."""
    net = Texts(TABLES)
    found = find_symmetries(net, WORDS[:, :9])
    assert found.proof.guilty == ()
    assert set(found.layout.pinned["the example uses a part of it only"]) == {
        f"places.{name}" for name in TABLES if name not in ("numbered", "looked_up")
    }
    other = found.sample(torch.Generator().manual_seed(1)).apply(net)
    for length in (2, 9, 12):
        expected, outputs = net(WORDS[:, :length]), other(WORDS[:, :length])
        for name in TABLES:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-4)
            assert not torch.equal(other.places[name], net.places[name])  # its units have moved


class Sliced(nn.Module):
    """A weight of 18 rows, the first 6 and others of which are multiplied with what comes in."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.w, self.b = function, parameter(18, 4), nn.Linear(6, 2)

    def forward(self, x):
        return self.function(self, x)


def _fused(m, x):
    one, two, three = (x @ m.w[6 * n : 6 * n + 6].T for n in range(3))
    return m.b(one * two) + m.b(three)


def test_a_weight_that_slices_cover_is_free():
    expected = written(["6: w:0 b.weight:1"])
    assert groups_of(find_symmetries(Sliced(_fused), torch.randn(3, 4)).groups.values()) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b(x @ m.w[:6].T) + (x @ m.w.T).square().sum(-1, keepdim=True),
        lambda m, x: m.b(x @ m.w[:6].T) + m.w.square().sum(),
        lambda m, x: m.b(x @ m.w[:6].T) + m.w[4:].square().sum() + m.w[:5].mean(),
    ],
)
def test_what_is_read_elsewhere_is_free(function):
    """All of the weight, or the rest of it and a part that overlaps."""
    found = find_symmetries(Sliced(function), torch.randn(3, 4))
    sizes = sorted(group.size for group in found.groups.values() if ("w", 0) in group.members)
    assert sizes in ([6, 12], [4, 12])  # where 4 and 5 are borders, one row stands alone
    assert found.proof.guilty == ()


def test_what_one_slice_of_three_leaves_out():
    """Rows 6 to 12 are read by nothing; those around are."""
    function = lambda m, x: m.b(x @ m.w[:6].T + (x @ m.w[12:].T).relu())  # noqa: E731
    found = find_symmetries(Sliced(function), torch.randn(3, 4))
    assert groups_of(found.groups.values()) == written(["6: w:0 b.weight:1"])
    assert found.layout.pinned["the example uses a part of it only"] == ("w",)


@pytest.mark.parametrize("given", [WORDS[:, :9], {"t": WORDS[:, ::2]}, (WORDS[:1].expand(3, -1),)])
def test_an_example_that_is_not_contiguous(given):
    traced = trace(Texts({"sliced": TABLES["sliced"]}), given)
    assert layout_of(solve(traced)).groups.keys() == {"places.sliced:1"}
