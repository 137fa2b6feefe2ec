"""Reshaping, slicing, joining."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 4, 2, 2)  # batch, channels, height, width


def _flat(inner: int = 6, outer: int = 6):
    return {"a": nn.Linear(16, inner), "b": nn.Linear(outer, 2)}


def _conv(inner: int, outer: int):
    return {"a": nn.Conv2d(4, inner, 1), "b": nn.Conv2d(outer, 2, 1)}


def _two():
    return {**_flat(6, 11), "c": nn.Linear(16, 5)}


def _written_into(m, x):
    y = m.a(x.flatten(1)).clone()
    y[:, 1:3] = y[:, 3:5] * 2
    return m.b(y)


def _dense(m, x):
    first = m.a(x)
    both = torch.cat([first, m.c(first.relu())], 1)
    return m.b(torch.cat([both, m.d(both.relu())], 1))


PLAIN = ("6: a.weight:0 a.bias:0 b.weight:1",)

CASES = {
    "flattened": Case(  # channels x places
        lambda m, x: m.b(m.a(x).flatten(1)),
        lambda: {"a": nn.Conv2d(4, 6, 1), "b": nn.Linear(24, 2)},
        PLAIN,
    ),
    "heads_and_back": Case(
        lambda m, x: m.b(m.a(x.flatten(1)).unflatten(1, (2, 3)).transpose(1, 2).mT.flatten(1)),
        _flat,
        ("2: a.weight:0 a.bias:0 b.weight:1", "3 in a.weight:0: a.weight:0 a.bias:0 b.weight:1"),
    ),
    "shuffled": Case(  # units i x 3 + j, then j x 2 + i
        lambda m, x: m.b(m.a(x.flatten(1)).view(-1, 2, 3).permute(0, 2, 1).reshape(-1, 6)),
        _flat,
        (
            "2: a.weight:0 a.bias:0 b.weight:1",
            "3 in a.weight:0: a.weight:0 a.bias:0 b.weight:1",
        ),
    ),
    "channel_shuffle": Case(
        lambda m, x: m.b(F.channel_shuffle(m.g(x), 2)),
        lambda: {"g": nn.Conv2d(4, 6, 1, groups=2), "b": nn.Conv2d(6, 2, 1)},
        ("3 in elsewhere: g.weight:0 g.bias:0 b.weight:1",),
    ),
    "pixel_shuffle": Case(
        lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)),
        lambda: _conv(20, 5),
        ("5: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "pixel_unshuffle": Case(
        lambda m, x: m.b(F.pixel_unshuffle(m.a(x), 2)),
        lambda: _conv(5, 20),
        ("5: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "refined": Case(  # 12 as 2 x 6 and as 4 x 3: common parts are 2 x 2 x 3
        lambda m, x: (
            m.b(m.a(x.flatten(1)).view(-1, 2, 6).sum(1))
            + m.c(m.a(x.flatten(1)).view(-1, 4, 3).sum(2))
        ),
        lambda: {**_flat(12, 6), "c": nn.Linear(4, 2)},
        (
            "2: a.weight:0 a.bias:0 b.weight:1 c.weight:1",
            "2 in a.weight:0#1: a.weight:0 a.bias:0 c.weight:1",
            "3 in a.weight:0#1: a.weight:0 a.bias:0 b.weight:1",
        ),
    ),
    "no_common_parts": Case(  # 12 as 3 x 4 and as 2 x 6
        lambda m, x: (
            m.b(m.a(x.flatten(1)).view(-1, 2, 6).sum(1))
            + m.c(m.a(x.flatten(1)).view(-1, 3, 4).sum(1))
        ),
        lambda: {**_flat(12, 6), "c": nn.Linear(4, 2)},
        (),
    ),
    "concatenated": Case(
        lambda m, x: m.b(torch.cat([m.a(x.flatten(1)), m.c(x.flatten(1))], 1)),
        _two,
        ("6: a.weight:0 a.bias:0 b.weight:1", "5: c.weight:0 c.bias:0 b.weight:1"),
    ),
    "stacked": Case(
        lambda m, x: m.b(torch.stack([m.a(x.flatten(1)), m.c(x.flatten(1))], 2).flatten(1)),
        lambda: {**_flat(6, 12), "c": nn.Linear(16, 6)},
        ("6: a.weight:0 a.bias:0 c.weight:0 c.bias:0 b.weight:1",),
    ),
    "dense": Case(
        _dense,
        lambda: {**_conv(5, 15), "c": nn.Conv2d(5, 4, 1), "d": nn.Conv2d(9, 6, 1)},
        (
            "5: a.weight:0 a.bias:0 c.weight:1 d.weight:1 b.weight:1",
            "4: c.weight:0 c.bias:0 d.weight:1 b.weight:1",
            "6: d.weight:0 d.bias:0 b.weight:1",
        ),
    ),
    "chunked": Case(
        lambda m, x: m.b(torch.mul(*m.a(x.flatten(1)).chunk(2, -1))),
        lambda: _flat(12, 6),
        PLAIN,
    ),
    "split": Case(
        lambda m, x: m.b(m.a(x.flatten(1)).split([4, 7], 1)[1]),
        lambda: _flat(11, 7),
        ("4: a.weight:0 a.bias:0", "7: a.weight:0 a.bias:0 b.weight:1"),
    ),
    "split_inside_of_a_head": Case(  # 6 = 2 x 3 units, as 1 + 5
        lambda m, x: m.b(m.a(x.flatten(1)).view(-1, 2, 3).flatten(1).split([1, 5], 1)[1]),
        lambda: _flat(6, 5),
        (),
    ),
    "parts_of_complex_numbers": Case(
        lambda m, x: m.b(
            torch.view_as_real(
                torch.view_as_complex(m.a(x.flatten(1)).view(-1, 3, 2)).square()
            ).flatten(1)
        ),
        _flat,
        ("3: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "sliced": Case(
        lambda m, x: m.b(m.a(x.flatten(1))[:, 2:-3]),
        lambda: _flat(11, 6),
        ("2: a.weight:0 a.bias:0", "3: a.weight:0 a.bias:0", *PLAIN),
    ),
    "sliced_with_steps": Case(lambda m, x: m.b(m.a(x.flatten(1))[:, ::2]), lambda: _flat(12), ()),
    "sliced_inside_a_head": Case(  # after 2 of 3 inner units of each head
        lambda m, x: m.b(m.a(x.flatten(1)).view(-1, 2, 3)[:, :, :2].flatten(1)),
        lambda: _flat(6, 4),
        (
            "2: a.weight:0 a.bias:0 b.weight:1",
            "2 in a.weight:0: a.weight:0 a.bias:0 b.weight:1",
        ),
    ),
    "selected": Case(  # the slices that are taken move apart, here two of three
        lambda m, x: m.b(m.a(x.flatten(1)).view(-1, 3, 6).select(1, 1)),
        lambda: _flat(18),
        ("6: a.weight:0 a.bias:0", "6: a.weight:0 a.bias:0", *PLAIN),
    ),
    "unbound": Case(
        lambda m, x: m.b(torch.add(*m.a(x.flatten(1)).view(-1, 6, 2).unbind(2))),
        lambda: _flat(12),
        PLAIN,
    ),
    "selected_of_whole": Case(  # a view that is used otherwise, too
        lambda m, x: m.b(
            m.a(x.flatten(1)).view(-1, 3, 6)[:, 1] + m.a(x.flatten(1)).view(-1, 3, 6).sum(1)
        ),
        lambda: _flat(18),
        PLAIN,
    ),
    "one_unit": Case(
        lambda m, x: m.a(x.flatten(1))[:, 3:4] * m.b(m.a(x.flatten(1))),
        lambda: _flat(),
        ("3: a.weight:0 a.bias:0 b.weight:1", "2: a.weight:0 a.bias:0 b.weight:1"),
    ),
    "squeezed": Case(
        lambda m, x: m.b(m.a(x.flatten(1))[:, None, :, None].squeeze(1).squeeze(-1)), _flat, PLAIN
    ),
    "expanded": Case(  # each unit for each of 5 equal places
        lambda m, x: m.b(m.a(x.flatten(1))[:, :, None].expand(-1, -1, 5).flatten(1)),
        lambda: _flat(6, 30),
        (
            "6: a.weight:0 a.bias:0 b.weight:1",
            "5 in a.weight:0: b.weight:1",
        ),
    ),
    "repeated": Case(
        lambda m, x: m.b(m.a(x.flatten(1)).repeat(1, 5)),
        lambda: _flat(6, 30),
        (
            "6: a.weight:0 a.bias:0 b.weight:1",
            "5 in a.weight:0: b.weight:1",
        ),
    ),
    "repeated_in_place": Case(
        lambda m, x: m.b(m.a(x.flatten(1)).repeat_interleave(5, 1)),
        lambda: _flat(6, 30),
        (
            "6: a.weight:0 a.bias:0 b.weight:1",
            "5 in a.weight:0: b.weight:1",
        ),
    ),
    "written_rows": Case(
        lambda m, x: x.mean() * torch.slice_scatter(m.p, m.q, 0, 1, 3).sum(0) @ m.w,
        lambda: {"p": parameter(7, 6), "q": parameter(2, 6), "w": parameter(6, 2)},
        # The first 1, those that are written over, and the last 4 of the rows, all summed.
        ("6: p:1 q:1 w:0", "2 in p:1: p:0 q:0", "4 in p:1: p:0"),
    ),
    "written_with_steps": Case(
        lambda m, x: m.b(torch.slice_scatter(m.a(x.flatten(1)), m.c(x.flatten(1)), 1, 0, 6, 2)),
        lambda: {**_flat(), "c": nn.Linear(16, 3)},
        (),
    ),
    "unbound_rows": Case(
        lambda m, x: x.mean() * m.p.unbind(0)[1] @ m.w,
        lambda: {"p": parameter(7, 6), "w": parameter(6, 2)},
        ("6: p:1 w:0",),  # nobody knows what reads the other rows
    ),
    "written_into": Case(  # of 6 = 1 + 2 + 2 + 1, the first 2 become those after them
        _written_into, _flat, ("2: a.weight:0 a.bias:0 b.weight:1",)
    ),
    "qkv": Case(
        lambda m, x: (lambda q, k, v: m.b((q * k).sum(-1)) + m.c(v.flatten(1)))(
            *m.a(x.flatten(1)).view(-1, 3, 2, 4).permute(1, 0, 2, 3).unbind(0)
        ),
        lambda: {**_flat(24, 2), "c": nn.Linear(8, 2)},
        (
            "2: a.weight:0 a.bias:0 b.weight:1",
            "4 in a.weight:0: a.weight:0 a.bias:0",
            "2: a.weight:0 a.bias:0 c.weight:1",
            "4 in a.weight:0#2: a.weight:0 a.bias:0 c.weight:1",
        ),
    ),
    "positions": Case(  # a learned place for each, added to all
        lambda m, x: m.b((m.a(x.flatten(2)) + m.p).flatten(1)),
        lambda: {"a": nn.Conv1d(4, 6, 1), "p": parameter(1, 6, 4), "b": nn.Linear(24, 2)},
        ("6: a.weight:0 a.bias:0 p:1 b.weight:1",),
    ),
}
