"""Looking up, padding, and what depends on the order of positions."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randint(0, 9, (3, 5))  # batch, tokens


def _ends(outer: int = 6):
    return {"a": nn.Embedding(9, 6), "b": nn.Linear(outer, 2)}


def _mean(m, x):
    return m.a(x).mean(1)


PLAIN = ("6: a.weight:1 b.weight:1",)
OUTSIDE = ("6: p:1 b.weight:1",)  # 3 x 6: an order for all of the 3, which are in their place


def _learned():
    return {"p": parameter(3, 6), "b": nn.Linear(18, 2)}


def _scaled(x: Tensor, y: Tensor) -> Tensor:
    return x.sum(1)[:, None] * y.flatten()


CASES = {
    "embedding": Case(lambda m, x: m.b(m.a(x)), _ends, PLAIN),
    "bags": Case(
        lambda m, x: m.b(F.embedding_bag(x, m.p, mode="max")),
        lambda: {"p": parameter(9, 6), "b": nn.Linear(6, 2)},
        ("6: p:1 b.weight:1",),
    ),
    "weighted_bags": Case(  # rows, bags and their weights are in their place
        lambda m, x: m.b(
            F.embedding_bag(x, m.p, mode="sum", per_sample_weights=m.w.expand(len(x), 5))
        ),
        lambda: {"p": parameter(9, 6), "w": parameter(1, 5), "b": nn.Linear(6, 2)},
        ("6: p:1 b.weight:1",),
    ),
    "bags_in_order": Case(
        lambda m, x: m.b(_scaled(x, F.embedding_bag(m.i, m.p))),
        lambda: {
            "p": parameter(9, 6),
            "i": torch.tensor([[0, 1], [8, 1], [3, 3], [4, 6]]),
            "b": nn.Linear(24, 2),
        },
        ("6: p:1 b.weight:1",),
    ),
    "where_the_maxima_are": Case(
        lambda m, x: torch.embedding_bag(
            m.p, x.flatten(), torch.arange(len(x)) * 5, mode=2, scale_grad_by_freq=False
        )[3],
        lambda: {"p": parameter(9, 6)},
        (),
    ),
    "frequencies_of_tokens": Case(
        lambda m, x: m.b(torch.fft.irfft(torch.fft.rfft(m.a(x), dim=1), n=5, dim=1)), _ends, PLAIN
    ),
    "frequencies_of_units": Case(lambda m, x: m.b(torch.fft.fft(m.a(x)).real), _ends, ()),
    "tied_head": Case(  # looked up, and multiplied with: its rows are words
        lambda m, x: F.linear(m.a(x) + m.b(m.a(x)), m.a.weight),
        lambda: {"a": nn.Embedding(9, 6), "b": nn.Linear(6, 6)},
        ("6: a.weight:1 b.weight:0 b.weight:1 b.bias:0",),
    ),
    "positions": Case(
        lambda m, x: m.b(m.a(x) + m.p[:, : x.shape[1]]),
        lambda: {**_ends(), "p": parameter(1, 8, 6)},
        # Longer texts read the positions beyond those of the example, each in its place.
        ("6: a.weight:1 p:2 b.weight:1",),
    ),
    "index": Case(
        lambda m, x: m.b(m.p[x]) + m.c(m.p[:, m.i].mT.mean(1)),
        lambda: {
            "p": parameter(9, 6),
            "i": torch.tensor([3, 1, 1]),
            "b": nn.Linear(6, 2),
            "c": nn.Linear(3, 2),
        },
        (),
    ),
    "index_first": Case(
        lambda m, x: m.b(m.p[x]),
        lambda: {"p": parameter(9, 6), "b": nn.Linear(6, 2)},
        ("6: p:1 b.weight:1",),
    ),
    "index_two": Case(  # of [4, 6, 9]: what is between the looked up goes after them
        lambda m, x: m.b(m.p[m.i, :, x[:, :3]]),
        lambda: {"p": parameter(4, 6, 9), "i": torch.tensor([3, 1, 2]), "b": nn.Linear(6, 2)},
        ("6: p:1 b.weight:1",),
    ),
    "index_select": Case(
        lambda m, x: m.b(torch.index_select(m.a(x), 1, m.i)),
        lambda: {**_ends(), "i": torch.tensor([3, 1])},
        PLAIN,
    ),
    "gathered_tokens": Case(  # the same tokens for every unit
        lambda m, x: m.b(m.a(x).gather(1, x[:, :2, None].clamp(max=4).expand(-1, -1, 6))),
        _ends,
        PLAIN,
    ),
    "gathered_tokens_of_units": Case(  # other tokens for every other unit
        lambda m, x: m.b(m.a(x).gather(1, x[:, :2, None].clamp(max=3) + torch.arange(6) % 2)),
        _ends,
        (),
    ),
    "gathered_by_units": Case(  # which unit is taken depends on the units themselves
        lambda m, x: m.b(_mean(m, x).gather(1, _mean(m, x).argsort(1))), _ends, ()
    ),
    "gathered_at_first": Case(  # fewer numbers than units: the first units are taken
        lambda m, x: m.b(m.a(x).gather(1, (m.c(x) > 0).long())),
        lambda: {**_ends(4), "c": nn.Embedding(9, 4)},
        (),
    ),
    "padded": Case(  # of 10 = 1 + 6 + 3
        lambda m, x: m.b(F.pad(m.a(x), (1, 3), value=0.5)),
        lambda: _ends(10),
        (*PLAIN, "3: b.weight:1"),
    ),
    "padded_shortcut": Case(  # a shortcut without weights: new channels beside those that go on
        lambda m, x: m.b(F.pad(m.a(x), (0, 3)) + m.c(m.a(x))),
        lambda: {**_ends(9), "c": nn.Linear(6, 9)},
        (
            "6: a.weight:1 c.weight:0 c.weight:1 c.bias:0 b.weight:1",
            "3: c.weight:0 c.bias:0 b.weight:1",
        ),
    ),
    "cropped": Case(
        lambda m, x: m.b(F.pad(m.a(x), (-2, -1))),
        lambda: {"a": nn.Embedding(9, 9), "b": nn.Linear(6, 2)},
        ("2: a.weight:1", *PLAIN),
    ),
    "cropped_inside_of_a_head": Case(  # 6 = 2 x 3 units, without the first one
        lambda m, x: m.b(F.pad(m.a(x).unflatten(2, (2, 3)).flatten(2), (-1, 0))),
        lambda: _ends(5),
        (),
    ),
    "cumsum_of_units": Case(lambda m, x: m.b(m.a(x).cumsum(-1)), _ends, ()),
    "cumsum_of_tokens": Case(lambda m, x: m.b(m.a(x).cumsum(1).cumprod(1)), _ends, PLAIN),
    "running_maximum": Case(
        lambda m, x: m.b(m.a(x).cummax(1).values + m.a(x).logcumsumexp(1)), _ends, PLAIN
    ),
    "flipped": Case(lambda m, x: m.b(m.a(x).flip(1)), _ends, PLAIN),
    "flipped_units": Case(lambda m, x: m.b(m.a(x).flip(-1)), _ends, ()),
    "rolled": Case(lambda m, x: m.b(m.a(x).roll(1, 1)), _ends, PLAIN),
    "rolled_units": Case(lambda m, x: m.b(m.a(x).roll(2, -1)), _ends, ()),
    "rolled_outside": Case(lambda m, x: m.b(_scaled(x, m.p.roll(1, 0))), _learned, OUTSIDE),
    "counted_outside": Case(lambda m, x: m.b(_scaled(x, m.p.cumsum(0))), _learned, OUTSIDE),
    "indexed_outside": Case(
        lambda m, x: m.b(_scaled(x, m.p[m.i] + m.p)),
        lambda: {**_learned(), "i": torch.tensor([2, 0, 1])},
        OUTSIDE,
    ),
    "selected_outside": Case(
        lambda m, x: m.b(_scaled(x, m.p.index_select(0, m.i) + m.p)),
        lambda: {**_learned(), "i": torch.tensor([2, 0, 1])},
        OUTSIDE,
    ),
    "selected_rows": Case(
        lambda m, x: m.b(_scaled(x, m.p.index_select(0, m.i))),
        lambda: {**_learned(), "p": parameter(7, 6), "i": torch.tensor([2, 0, 1])},
        OUTSIDE,
    ),
    "windows_in_order": Case(
        lambda m, x: m.b(_scaled(x, m.p.unfold(0, 2, 1).sum(2))),
        lambda: {"p": parameter(5, 6), "b": nn.Linear(24, 2)},
        OUTSIDE,
    ),
    "windows_outside": Case(
        lambda m, x: x.sum(1)[:, None] * m.b(m.p.unfold(0, 2, 1).flatten(1)).mean(0),
        lambda: {"p": parameter(7, 6), "b": nn.Linear(12, 2)},
        OUTSIDE,
    ),
    "gathered_outside": Case(
        lambda m, x: m.b(_scaled(x, m.p.gather(0, (m.p > 0).long()) + m.p)), _learned, OUTSIDE
    ),
    "sorted": Case(  # whatever the order was, it is another now
        lambda m, x: m.b(m.a(x).sort(-1).values), _ends, ("6: a.weight:1",)
    ),
    "largest": Case(
        lambda m, x: m.b(m.a(x).topk(2, -1).values), lambda: _ends(2), ("6: a.weight:1",)
    ),
    "where_the_largest_are": Case(
        lambda m, x: m.b(m.a(x).topk(2, -1)[1].to(m.b.weight.dtype)), lambda: _ends(2), ()
    ),
    "sorted_outside": Case(
        lambda m, x: m.b(_scaled(x, m.p.sort(0).values)),
        _learned,
        (*OUTSIDE, "3 in p:1: p:0"),
    ),
    "windows": Case(
        lambda m, x: m.b(m.a(x).unfold(1, 2, 1).flatten(2)),
        lambda: _ends(12),
        PLAIN,
    ),
}
