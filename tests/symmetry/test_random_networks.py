"""Networks that hypothesis builds out of a grammar: the proof holds for each.

CONJOIN_RANDOM_NETWORKS=2000 in the environment tries so many instead of 100.
"""

import os

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conjoin.symmetry import find_symmetries

COUNT = int(os.environ.get("CONJOIN_RANDOM_NETWORKS", "100"))

WIDTHS = (2, 4, 6, 8, 12)

TOKENS = 4


class Residual(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Concatenated(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


class Sliced(nn.Module):
    """The halves of the features, exchanged or one of them gating the other."""

    def __init__(self, place: int, gate: bool) -> None:
        super().__init__()
        self.place, self.gate = place, gate

    def forward(self, x: Tensor) -> Tensor:
        if self.gate:
            first, second = x.chunk(2, -1)
            return torch.cat([first * second.sigmoid(), second], -1)
        return torch.cat([x[..., self.place :], x[..., : self.place]], -1)


class Shuffled(nn.Module):
    """Features as heads x units, and as units x heads, or softmax over one of both."""

    def __init__(self, heads: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(-1, (self.heads, -1))
        if self.kind == "transposed":
            y = y.mT
        elif self.kind == "softmax of heads":
            y = y.softmax(-2)
        elif self.kind == "norm of units":
            y = F.layer_norm(y, y.shape[-1:])
        else:
            y = y - y.amax(-1, keepdim=True)
        return y.flatten(-2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, units: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.units, self.fused = heads, units, fused
        inner = heads * units
        self.qkv = nn.ModuleList(
            [nn.Linear(width, 3 * inner)] if fused else [nn.Linear(width, inner) for _ in range(3)]
        )
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            q, k, v = self.qkv[0](x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv)
        y = (q @ k.mT).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner), nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Convolved(nn.Module):
    """A convolution over tokens, with norms that come after it."""

    def __init__(self, inner: int, outer: int, groups: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inner, outer, 3, padding=1, groups=groups)
        norms = {"batch": nn.BatchNorm1d(outer), "group": nn.GroupNorm(2, outer)}
        self.norm = norms.get(norm, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.mT)).mT


class Mixed(nn.Module):
    """A linear layer over tokens, or over tokens and features as one."""

    def __init__(self, width: int, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        size = TOKENS * width if flat else TOKENS
        self.layer = nn.Linear(size, size)
        self.positions = nn.Parameter(torch.randn(TOKENS, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        if self.flat:
            return self.layer(x.flatten(1)).view(x.shape)
        return self.layer(x.mT).mT


class Recurrent(nn.Module):
    def __init__(self, width: int, inner: int, both: bool) -> None:
        super().__init__()
        self.layer = nn.GRU(width, inner, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.layer(x)
        return y + torch.cat(list(h), -1)[:, None]


class Moved(nn.Module):
    """What knows the order of tokens or of features."""

    def __init__(self, kind: str, dim: int) -> None:
        super().__init__()
        self.kind, self.dim = kind, dim

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rolled":
            return x.roll(1, self.dim)
        if self.kind == "summed up":
            return x.cumsum(self.dim)
        if self.kind == "sorted":
            return x.sort(self.dim).values
        return x.softmax(self.dim) * x.flip(self.dim)


class Queries(nn.Module):
    """Learned tokens look at those that are there, and at themselves."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.tokens = nn.Parameter(torch.randn(TOKENS, width))

    def forward(self, x: Tensor) -> Tensor:
        q = self.tokens.expand(len(x), -1, -1)
        y = F.scaled_dot_product_attention(q, q, q, is_causal=self.causal)
        return F.scaled_dot_product_attention(y, x, x)


class Itself(nn.Module):
    """Multiplied with the products of learned features with one another."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(width, inner))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.features @ self.features.T)


class Repeated(nn.Module):
    """Features twice, one after another or side by side, or with zeros around them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "padded":
            return F.pad(x, (x.shape[-1] // 2, x.shape[-1] - x.shape[-1] // 2))
        if self.kind == "side by side":
            return x.repeat_interleave(2, -1)
        return x.repeat(1, 1, 2)


Part = tuple[nn.Module, int]
"""A module from [B, T, inner] to [B, T, outer], and outer."""


@st.composite
def parts(draw, width: int, depth: int) -> Part:
    """Draw a part that takes a width."""
    leaves = ["linear", "convolution", "norm", "activation", "attention", "gated", "shuffled",
              "sliced", "mixed", "recurrent", "moved", "queries", "itself", "repeated"]  # fmt: skip
    kinds = leaves + (["sequence", "sequence", "residual", "concatenated"] * 2 if depth else [])
    kind = draw(st.sampled_from(kinds))
    even = width % 2 == 0
    if kind == "sequence":
        return draw(sequences(width, depth - 1))
    if kind == "residual":
        inside, outer = draw(sequences(width, depth - 1))
        back = nn.Identity() if outer == width else nn.Linear(outer, width)
        return Residual(nn.Sequential(inside, back)), width
    if kind == "concatenated":
        one, first = draw(sequences(width, depth - 1))
        other, second = draw(
            st.one_of(st.just((nn.Identity(), width)), sequences(width, depth - 1))
        )
        return Concatenated(one, other), first + second
    if kind == "linear":
        outer = draw(st.sampled_from(WIDTHS))
        return nn.Linear(width, outer, bias=draw(st.booleans())), outer
    if kind == "convolution":
        outer = draw(st.sampled_from(WIDTHS))
        groups = draw(st.sampled_from([g for g in (1, 2, width) if not (width % g or outer % g)]))
        return Convolved(width, outer, groups, draw(st.sampled_from(["", "batch", "group"]))), outer
    if kind == "norm":
        return draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))(width), width
    if kind == "attention":
        size = st.integers(1, 3)
        return Attention(width, draw(size), draw(size), draw(st.booleans())), width
    if kind == "gated":
        return Gated(width, draw(st.sampled_from(WIDTHS))), width
    if kind == "shuffled" and even:
        ways = ["transposed", "softmax of heads", "norm of units", "less the largest"]
        return Shuffled(draw(st.sampled_from([2, width // 2])), draw(st.sampled_from(ways))), width
    if kind == "sliced" and even:
        return Sliced(draw(st.integers(1, width - 1)), draw(st.booleans())), width
    if kind == "recurrent":
        inner, both = draw(st.sampled_from(WIDTHS)), draw(st.booleans())
        return Recurrent(width, inner, both), inner * (1 + both)
    if kind == "moved":
        ways = ["rolled", "summed up", "sorted", "flipped"]
        return Moved(draw(st.sampled_from(ways)), draw(st.sampled_from([1, 2]))), width
    if kind == "queries":
        return Queries(width, draw(st.booleans())), width
    if kind == "itself":
        return Itself(width, draw(st.sampled_from(WIDTHS))), width
    if kind == "repeated" and width < 20:
        return Repeated(draw(st.sampled_from(["padded", "side by side", "whole"]))), 2 * width
    if kind == "mixed":
        return Mixed(width, draw(st.booleans()) and width < 9), width
    return draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU]))(), width


@st.composite
def sequences(draw, width: int, depth: int) -> Part:
    """Draw parts one after another."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        part, width = draw(parts(width, depth))
        made.append(part)
    return nn.Sequential(*made), width


@st.composite
def networks(draw) -> nn.Module:
    """Draw a network from [B, T, 3] to [B, T, 2]."""
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 1000)))
        width = draw(st.sampled_from(WIDTHS))
        inside, outer = draw(sequences(width, 2))
        return nn.Sequential(nn.Linear(3, width), inside, nn.Linear(outer, 2))


@settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=COUNT == 100,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(networks())
def test_the_proof_holds(network):
    found = find_symmetries(network, torch.randn(3, TOKENS, 3))
    event(f"groups: {min(len(found.groups), 10)}")
    assert found.proof.guilty == ()
    assert found.proof.error < 1e-9
    assert found.unknown == {}
