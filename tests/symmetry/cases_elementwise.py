"""What treats every position alike, and what it does with constants."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 4)


def _ends():
    return {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)}


def _without_gradient(m, x):
    with torch.no_grad():
        y = m.a(x).relu()
    return m.b(y)


PLAIN = ("6: a.weight:0 a.bias:0 b.weight:1",)

CASES = {
    "activations": Case(
        lambda m, x: m.b(F.hardswish(F.silu(F.gelu(m.a(x)).exp().clamp(0.1, 3).log()))),
        _ends,
        PLAIN,
    ),
    "residual": Case(  # both halves of a residual connection move together
        lambda m, x: m.b(m.a(x) + m.c(m.a(x)).relu()),
        lambda: {**_ends(), "c": nn.Linear(6, 6)},
        ("6: a.weight:0 a.bias:0 c.weight:0 c.weight:1 c.bias:0 b.weight:1",),
    ),
    "gated": Case(
        lambda m, x: m.b(F.silu(m.a(x)) * m.c(x)),
        lambda: {**_ends(), "c": nn.Linear(4, 6)},
        ("6: a.weight:0 a.bias:0 c.weight:0 c.bias:0 b.weight:1",),
    ),
    "glu": Case(  # one layer whose halves gate each other
        lambda m, x: m.b(F.glu(m.a(x))),
        lambda: {"a": nn.Linear(4, 12), "b": nn.Linear(6, 2)},
        PLAIN,
    ),
    "slopes": Case(
        lambda m, x: m.b(m.p(m.a(x))),
        lambda: {**_ends(), "p": nn.PReLU(6)},
        ("6: a.weight:0 a.bias:0 p.weight:0 b.weight:1",),
    ),
    "scale": Case(
        lambda m, x: m.b(m.a(x) * m.g + m.h),
        lambda: {**_ends(), "g": parameter(6), "h": parameter(1)},
        ("6: a.weight:0 a.bias:0 g:0 b.weight:1",),
    ),
    "where": Case(
        lambda m, x: m.b(torch.where(m.a(x) > m.g, m.a(x), m.h).masked_fill(m.a(x) > 2, 0.0)),
        lambda: {**_ends(), "g": parameter(6), "h": parameter(6)},
        ("6: a.weight:0 a.bias:0 g:0 h:0 b.weight:1",),
    ),
    "lerp_and_cast": Case(
        lambda m, x: (
            m.b(torch.lerp(m.a(x), m.g, 0.3).to(torch.float32).to(x.dtype)) * 0
            + m.b(torch.lerp(m.a(x), m.g, 0.3))
        ),
        lambda: {**_ends(), "g": parameter(6)},
        ("6: a.weight:0 a.bias:0 g:0 b.weight:1",),
    ),
    "softmax": Case(lambda m, x: m.b(m.a(x).softmax(-1) + m.a(x).log_softmax(1)), _ends, PLAIN),
    "softmax_outside": Case(  # 3 x 4: mixes the 3 at each of the 4, which so move alike in all 3
        lambda m, x: m.b(m.a(x).view(-1, 3, 4).softmax(1).flatten(1)),
        lambda: {"a": nn.Linear(4, 12), "b": nn.Linear(12, 2)},
        ("4: a.weight:0 a.bias:0 b.weight:1", "3 in a.weight:0#1: a.weight:0 a.bias:0 b.weight:1"),
    ),
    "dropout": Case(lambda m, x: m.b(F.dropout(m.a(x), 0.5, m.training).detach()), _ends, PLAIN),
    "no_grad": Case(_without_gradient, _ends, PLAIN),
    "input_is_added": Case(  # the units are those of the input, which have a place
        lambda m, x: m.b(m.a(x) + x),
        lambda: {"a": nn.Linear(4, 4), "b": nn.Linear(4, 2)},
        (),
    ),
    "buffer_is_added": Case(
        lambda m, x: m.b(m.a(x) + m.c), lambda: {**_ends(), "c": torch.randn(6)}, ()
    ),
    "constant_is_added": Case(
        lambda m, x: m.b(m.a(x) + torch.arange(6, device=x.device)), _ends, ()
    ),
    "equal_constants": Case(  # a zero is a zero in any place
        lambda m, x: m.b(m.a(x) + torch.ones(6) * torch.full((1, 6), 0.5).expand(3, 1, 6)[0]),
        _ends,
        PLAIN,
    ),
    # What is made of equal elements need not be equal.
    "counted": Case(lambda m, x: m.b(m.a(x) * torch.ones(6).cumsum(0)), _ends, ()),
    "joined": Case(
        lambda m, x: m.b(m.a(x) * torch.cat([torch.ones(2), torch.zeros(4)])), _ends, ()
    ),
    "masked": Case(  # a lower triangle
        lambda m, x: m.b(m.a(x) @ torch.ones(6, 6).tril()), _ends, ()
    ),
    "output_itself": Case(lambda m, x: (m.a(x), m.b(m.a(x))), _ends, ()),
}
