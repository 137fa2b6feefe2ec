"""Linear, matrix products, einsum, bilinear."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 5, 4)  # batch, tokens, features


def _heads(m, x):
    q, k = torch.einsum("btc,hcd->bhtd", x, m.q), torch.einsum("b t c, h c d -> b h t d", x, m.k)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1)
    y = torch.einsum("bhts,bhsd->bthd", scores, torch.einsum("btc,hcd->bhtd", x, m.v))
    return m.o(y.flatten(2))


def _bilinear_with_itself(m):
    y = F.bilinear(m.p, m.p, m.k)
    return y + y.mT


CASES = {
    "linear": Case(
        lambda m, x: m.b(m.a(x).relu()),
        lambda: {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)},
        ("6: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "no_bias": Case(
        lambda m, x: m.b(m.a(x).relu()),
        lambda: {"a": nn.Linear(4, 6, bias=False), "b": nn.Linear(6, 2, bias=False)},
        ("6: a.weight:0 b.weight:1",),
    ),
    "matmul": Case(
        lambda m, x: (x @ m.p).relu() @ m.q,
        lambda: {"p": parameter(4, 6), "q": parameter(6, 2)},
        ("6: p:1 q:0",),
    ),
    "matmul_of_two": Case(
        lambda m, x: (m.a(x) @ m.b(x).mT).softmax(-1) @ x,
        lambda: {"a": nn.Linear(4, 6), "b": nn.Linear(4, 6)},
        ("6: a.weight:0 a.bias:0 b.weight:0 b.bias:0",),
    ),
    "matmul_vector": Case(
        lambda m, x: m.a(x) @ m.v,
        lambda: {"a": nn.Linear(4, 6), "v": parameter(6)},
        ("6: a.weight:0 a.bias:0 v:0",),
    ),
    "matmul_batch": Case(  # one matrix for each of 7 heads
        lambda m, x: ((x[:, None] @ m.p) @ m.q).sum(1),
        lambda: {"p": parameter(7, 4, 6), "q": parameter(7, 6, 2)},
        ("7: p:0 q:0", "6 in p:0: p:2 q:1"),
    ),
    "addmm": Case(
        lambda m, x: torch.addmm(m.c, x[:, 0], m.p).relu() @ m.q,
        lambda: {"c": parameter(6), "p": parameter(4, 6), "q": parameter(6, 2)},
        ("6: c:0 p:1 q:0",),
    ),
    "baddbmm": Case(
        lambda m, x: torch.baddbmm(m.c, x, m.p.expand(len(x), 4, 6)).relu() @ m.q,
        lambda: {"c": parameter(1, 1, 6), "p": parameter(4, 6), "q": parameter(6, 2)},
        ("6: c:2 p:1 q:0",),
    ),
    "einsum_heads": Case(
        _heads,
        lambda: {
            "q": parameter(2, 4, 6),
            "k": parameter(2, 4, 6),
            "v": parameter(2, 4, 7),
            "o": nn.Linear(14, 2),
        },
        (
            "2: q:0 k:0 v:0 o.weight:1",
            "6 in q:0: q:2 k:2",
            "7 in q:0: v:2 o.weight:1",
        ),
    ),
    "einsum_dots": Case(  # no arrow: letters that occur once, in the order of the alphabet
        lambda m, x: m.b(torch.einsum("...c,cd", x, m.p).relu()),
        lambda: {"p": parameter(4, 6), "b": nn.Linear(6, 2)},
        ("6: p:1 b.weight:1",),
    ),
    "einsum_size_one": Case(
        lambda m, x: m.b(torch.einsum("btc,btd->btd", m.c(x), m.a(x))),
        lambda: {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2), "c": nn.Linear(4, 1)},
        ("6: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "bilinear": Case(
        lambda m, x: m.c(m.m(m.a(x), m.b(x)).relu()),
        lambda: {
            "a": nn.Linear(4, 6),
            "b": nn.Linear(4, 7),
            "m": nn.Bilinear(6, 7, 8),
            "c": nn.Linear(8, 2),
        },
        (
            "6: a.weight:0 a.bias:0 m.weight:1",
            "7: b.weight:0 b.bias:0 m.weight:2",
            "8: m.weight:0 m.bias:0 c.weight:1",
        ),
    ),
    "distances": Case(
        lambda m, x: m.b(torch.cdist(m.a(x), m.p)),
        lambda: {"a": nn.Linear(4, 6), "p": parameter(7, 6), "b": nn.Linear(7, 2)},
        ("6: a.weight:0 a.bias:0 p:1", "7: p:0 b.weight:1"),
    ),
    "distances_within": Case(
        lambda m, x: x.mean((1, 2))[:, None] * torch.cdist(m.p, m.p + 1).flatten() @ m.w,
        lambda: {"p": parameter(7, 6), "w": parameter(49, 2)},
        ("7: p:0 w:0", "6: p:1"),
    ),
    # A matrix with itself: its columns may not be reordered apart for each row.
    "gram_matmul": Case(
        lambda m, x: x.mean((1, 2))[:, None] * (m.p @ m.p.T).flatten() @ m.w,
        lambda: {"p": parameter(7, 6), "w": parameter(49, 2)},
        ("7: p:0 w:0", "6: p:1"),
    ),
    "gram_linear": Case(
        lambda m, x: x.mean((1, 2))[:, None] * F.linear(m.p, m.p).flatten() @ m.w,
        lambda: {"p": parameter(7, 6), "w": parameter(49, 2)},
        ("7: p:0 w:0", "6: p:1"),
    ),
    "gram_einsum": Case(
        lambda m, x: x.mean((1, 2))[:, None] * torch.einsum("ac,bc->ab", m.p, m.p).flatten() @ m.w,
        lambda: {"p": parameter(7, 6), "w": parameter(49, 2)},
        ("7: p:0 w:0", "6: p:1"),
    ),
    "gram_bilinear": Case(
        lambda m, x: x.mean((1, 2))[:, None] * _bilinear_with_itself(m).flatten() @ m.w,
        lambda: {"p": parameter(7, 6), "k": parameter(7, 6, 6), "w": parameter(49, 2)},
        ("7: p:0 k:0 w:0", "6: p:1 k:1 k:2"),
    ),
    "gram_attention": Case(
        lambda m, x: (
            x.mean((1, 2))[:, None]
            * F.scaled_dot_product_attention(m.p[None], m.p[None], m.v[None]).flatten()
            @ m.w
        ),
        lambda: {"p": parameter(7, 6), "v": parameter(7, 8), "w": parameter(56, 2)},
        ("7: p:0 v:0 w:0", "6: p:1", "8: v:1 w:0"),
    ),
}
