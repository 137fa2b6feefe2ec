"""Sums, means, maxima."""

import torch
from symmetry_toys import Case
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 5, 4)  # batch, tokens, features


def _ends():
    return {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)}


def _split():
    return {"a": nn.Linear(20, 12), "b": nn.Linear(4, 2)}


def _cut(m, x):
    return m.a(x.flatten(1)).view(-1, 4, 3)


PLAIN = ("6: a.weight:0 a.bias:0 b.weight:1",)
REDUCED = ("6: a.weight:0 a.bias:0",)
INNER = (
    "4: a.weight:0 a.bias:0 b.weight:1",
    "3 in a.weight:0: a.weight:0 a.bias:0",  # each of the 4 has its own order of 3
)

CASES = {
    "mean_of_tokens": Case(lambda m, x: m.b(m.a(x).mean(1)), _ends, PLAIN),
    "sum_with_room": Case(lambda m, x: m.b(m.a(x).sum(1, keepdim=True)), _ends, PLAIN),
    "of_units": Case(lambda m, x: m.a(x).relu().sum(-1), lambda: {"a": nn.Linear(4, 6)}, REDUCED),
    "of_everything": Case(
        lambda m, x: m.a(x).sum() + x.sum((1, 2)), lambda: {"a": nn.Linear(4, 6)}, REDUCED
    ),
    "standardized": Case(
        lambda m, x: m.b((m.a(x) - m.a(x).mean(2, True)) / m.a(x).std(-1, keepdim=True)),
        _ends,
        PLAIN,
    ),
    "var_mean": Case(
        lambda m, x: torch.var_mean(m.a(x), -1), lambda: {"a": nn.Linear(4, 6)}, REDUCED
    ),
    "norm": Case(lambda m, x: m.b(m.a(x) / m.a(x).norm(dim=-1, keepdim=True)), _ends, PLAIN),
    "vector_norm": Case(
        lambda m, x: torch.linalg.vector_norm(m.a(x), 3, -1),
        lambda: {"a": nn.Linear(4, 6)},
        REDUCED,
    ),
    "product_and_logsumexp": Case(
        lambda m, x: m.a(x).prod(-1) + m.a(x).logsumexp(-1),
        lambda: {"a": nn.Linear(4, 6)},
        REDUCED,
    ),
    "extremes": Case(
        lambda m, x: m.a(x).amax(-1) - m.a(x).amin(-1), lambda: {"a": nn.Linear(4, 6)}, REDUCED
    ),
    "any": Case(lambda m, x: (m.a(x) > 0).any(-1), lambda: {"a": nn.Linear(4, 6)}, REDUCED),
    "inside": Case(lambda m, x: m.b(_cut(m, x).sum(2)), _split, INNER),
    "maxout": Case(lambda m, x: m.b(_cut(m, x).max(2).values), _split, INNER),
    "maxout_median": Case(lambda m, x: m.b(_cut(m, x).median(2).values), _split, INNER),
    "where_is_the_largest": Case(  # among 3 that are in their place, at each of 4
        lambda m, x: m.b(_cut(m, x).max(2)[1].to(x.dtype)),
        _split,
        ("4: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "argmax": Case(lambda m, x: m.a(x).argmax(-1), lambda: {"a": nn.Linear(4, 6)}, ()),
    "outside": Case(  # over the 4 at each of 3, which move alike in all 4
        lambda m, x: m.b(_cut(m, x).mean(1)),
        lambda: {"a": nn.Linear(20, 12), "b": nn.Linear(3, 2)},
        (
            "3: a.weight:0 a.bias:0 b.weight:1",
            "4 in a.weight:0#1: a.weight:0 a.bias:0",
        ),
    ),
}
