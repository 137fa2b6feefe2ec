"""Attention of every kind: heads move, and inside of each head its units."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 4, 5)  # batch, tokens, features


def _layers(q: int, k: int, v: int, o: int, **parts):
    return {
        "e": nn.Linear(5, 12),
        "q": nn.Linear(12, q, bias=False),
        "k": nn.Linear(12, k, bias=False),
        "v": nn.Linear(12, v, bias=False),
        "o": nn.Linear(o, 12),
        "f": nn.Linear(12, 2),
        **parts,
    }


def _heads(y: Tensor, heads: int) -> Tensor:
    return y.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, H, T, D]


def _merged(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def _separate(m, x, causal: bool = False, mask: Tensor | None = None):
    x = m.e(x)
    q, k, v = _heads(m.q(x), 2), _heads(m.k(x), 2), _heads(m.v(x), 2)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return m.f(x + m.o(_merged(y)))


def _by_hand(m, x):
    x = m.e(x)
    q, k, v = _heads(m.q(x), 2), _heads(m.k(x), 2), _heads(m.v(x), 2)
    scores = (q @ k.mT / 2).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    return m.f(x + m.o(_merged(scores.softmax(-1) @ v)))


def _repeated(y: Tensor) -> Tensor:
    b, h, t, d = y.shape
    return y[:, :, None].expand(b, h, 3, t, d).reshape(b, 3 * h, t, d)


def _grouped(m, x):
    x = m.e(x)
    q, k, v = _heads(m.q(x), 6), _heads(m.k(x), 2), _heads(m.v(x), 2)
    y = F.scaled_dot_product_attention(q, _repeated(k), _repeated(v))
    return m.f(x + m.o(_merged(y)))


def _grouped_flag(m, x):
    x = m.e(x)
    q, k, v = _heads(m.q(x), 6), _heads(m.k(x), 2), _heads(m.v(x), 2)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=m.t, enable_gqa=True)
    return m.f(x + m.o(_merged(y)))


def _rotated(y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = y.chunk(2, -1)
    return y * cos + torch.cat([-second, first], -1) * sin


def _rotary(m, x):
    x = m.e(x)
    q, k, v = _heads(m.q(x), 2), _heads(m.k(x), 2), _heads(m.v(x), 2)
    q, k = _rotated(q, m.cos, m.sin), _rotated(k, m.cos, m.sin)
    return m.f(x + m.o(_merged(F.scaled_dot_product_attention(q, k, v))))


def _rotary_complex(m, x):
    x = m.e(x)
    q, k, v = _heads(m.q(x), 2), _heads(m.k(x), 2), _heads(m.v(x), 2)
    turned = torch.polar(torch.ones_like(m.angles), m.angles)
    q, k = (
        torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (3, 2))) * turned).flatten(-2)
        for y in (q, k)
    )
    return m.f(x + m.o(_merged(F.scaled_dot_product_attention(q, k, v))))


def _angles() -> dict[str, Tensor]:
    angles = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.1])
    angles = torch.cat([angles, angles], -1)
    return {"cos": angles.cos(), "sin": angles.sin()}


def _fused_thirds(m, x):
    x = m.e(x)
    q, k, v = (_heads(y, 2) for y in m.p(x).chunk(3, -1))
    return m.f(x + m.o(_merged(F.scaled_dot_product_attention(q, k, v))))


def _fused_view(m, x):
    x = m.e(x)
    q, k, v = m.p(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
    return m.f(x + m.o(_merged(F.scaled_dot_product_attention(q, k, v))))


def _fused_per_head(m, x):
    x = m.e(x)
    q, k, v = _heads(m.p(x), 2).split([4, 4, 6], -1)
    return m.f(x + m.o(_merged(F.scaled_dot_product_attention(q, k, v))))


class _Zeros(nn.Module):
    def __init__(self, size: int, stored: bool = False) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(size), persistent=stored)


def _fused_thirds_with_bias(m, x):
    x = m.e(x)
    bias = torch.cat([m.r[:8], m.n.zeros, m.r[8:]])
    q, k, v = (_heads(y, 2) for y in (m.p(x) + bias).chunk(3, -1))
    return m.f(x + m.o(_merged(F.scaled_dot_product_attention(q, k, v))))


def _windows(m, x):
    """Rolled windows of two tokens, with a bias from a table for each head."""
    x = m.e(x).roll(-1, 1)
    w = x.view(-1, 2, 2, 12).flatten(0, 1)  # [B x windows, 2, C]
    q, k, v = m.p(w).view(-1, 2, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    bias = m.t[m.i.view(-1)].view(2, 2, 2).permute(2, 0, 1)
    y = (q @ k.mT + bias[None]).softmax(-1) @ v
    return m.f((w + m.o(_merged(y))).view(-1, 4, 12).roll(1, 1))


def _fused(outer: int, **parts):
    found = _layers(1, 1, 1, outer, **parts)
    return {name: found[name] for name in found if name not in "qkv"}


def _encoder(m, x):
    return m.f(m.l(m.e(x)))


STREAM = "12: e.weight:0 e.bias:0 {} o.weight:0 o.bias:0 f.weight:1"
SEPARATE = STREAM.format("q.weight:1 k.weight:1 v.weight:1")
FUSED = STREAM.format("p.weight:1")
HEADS = (
    SEPARATE,
    "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1",
    "4 in q.weight:0: q.weight:0 k.weight:0",
    "6 in q.weight:0: v.weight:0 o.weight:1",
)

CASES = {
    "separate": Case(_separate, lambda: _layers(8, 8, 12, 12), HEADS),
    "by_hand_with_mask": Case(_by_hand, lambda: _layers(8, 8, 12, 12), HEADS),
    "causal": Case(lambda m, x: _separate(m, x, True), lambda: _layers(8, 8, 12, 12), HEADS),
    "masked_by_a_bias_of_heads": Case(
        lambda m, x: _separate(m, x, mask=m.t),
        lambda: _layers(8, 8, 12, 12, t=parameter(2, 4, 4)),
        (
            SEPARATE,
            "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1 t:0",
            "4 in t:0: q.weight:0 k.weight:0",
            "6 in t:0: v.weight:0 o.weight:1",
        ),
    ),
    "masked_alike_in_all_heads": Case(  # the mask is made for each head, and equal in all
        lambda m, x: _separate(m, x, mask=torch.zeros(1, 2, 4, 4) + m.t),
        lambda: _layers(8, 8, 12, 12, t=torch.randn(4, 4)),
        HEADS,
    ),
    "constant_bias_of_keys": Case(  # its zeros are no state: they are not saved
        _fused_thirds_with_bias,
        lambda: _fused(8, p=nn.Linear(12, 24, bias=False), n=_Zeros(8), r=parameter(16)),
        (
            FUSED,
            "2: p.weight:0 r:0 o.weight:1",
            "4 in r:0: p.weight:0 r:0",
            "4 in r:0: p.weight:0 r:0 o.weight:1",
        ),
    ),
    "stored_bias_of_keys": Case(  # a state of its own, though it is zero yet
        _fused_thirds_with_bias,
        lambda: _fused(8, p=nn.Linear(12, 24, bias=False), n=_Zeros(8, True), r=parameter(16)),
        (FUSED, "4 in r:0: p.weight:0 r:0 o.weight:1"),
    ),
    "grouped_queries": Case(  # 2 heads of keys and values, each for 3 of queries
        _grouped,
        lambda: _layers(24, 8, 12, 36),
        (
            SEPARATE,
            "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1",
            "3 in q.weight:0: q.weight:0 o.weight:1",
            "4 in q.weight:0: q.weight:0 k.weight:0",
            "6 in q.weight:0: v.weight:0 o.weight:1",
        ),
    ),
    "grouped_queries_flag": Case(
        _grouped_flag,
        lambda: _layers(24, 8, 12, 36, t=parameter(6, 4, 4)),
        (
            SEPARATE,
            "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1 t:0",
            "3 in t:0: q.weight:0 o.weight:1 t:0",
            "4 in t:0: q.weight:0 k.weight:0",
            "6 in t:0: v.weight:0 o.weight:1",
        ),
    ),
    "rotary": Case(  # queries and keys have places: pairs that rotate with one angle
        _rotary,
        lambda: _layers(8, 8, 12, 12, **_angles()),
        (
            SEPARATE,
            "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1",
            "6 in q.weight:0: v.weight:0 o.weight:1",
        ),
    ),
    "rotary_complex": Case(  # 2 heads of 3 numbers with 2 parts: the pairs have their angles
        _rotary_complex,
        lambda: _layers(12, 12, 12, 12, angles=torch.randn(4, 3)),
        (
            SEPARATE,
            "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1",
            "6 in q.weight:0: v.weight:0 o.weight:1",
        ),
    ),
    "fused_thirds": Case(
        _fused_thirds,
        lambda: _fused(8, p=nn.Linear(12, 24)),
        (
            FUSED,
            "2: p.weight:0 p.bias:0 o.weight:1",
            "4 in o.weight:1: p.weight:0 p.bias:0",
            "4 in o.weight:1: p.weight:0 p.bias:0 o.weight:1",
        ),
    ),
    "fused_view": Case(
        _fused_view,
        lambda: _fused(8, p=nn.Linear(12, 24)),
        (
            FUSED,
            "2: p.weight:0 p.bias:0 o.weight:1",
            "4 in o.weight:1: p.weight:0 p.bias:0",
            "4 in o.weight:1: p.weight:0 p.bias:0 o.weight:1",
        ),
    ),
    "fused_per_head": Case(  # 2 heads, each with its 4 of queries, 4 of keys, 6 of values
        _fused_per_head,
        lambda: _fused(12, p=nn.Linear(12, 28)),
        (
            FUSED,
            "2: p.weight:0 p.bias:0 o.weight:1",
            "4 in o.weight:1: p.weight:0 p.bias:0",
            "6 in o.weight:1: p.weight:0 p.bias:0 o.weight:1",
        ),
    ),
    "windows": Case(
        _windows,
        lambda: _fused(8, p=nn.Linear(12, 24), t=parameter(3, 2), i=torch.tensor([[1, 0], [2, 1]])),
        (
            FUSED,
            "2: p.weight:0 p.bias:0 o.weight:1 t:1",
            "4 in t:1: p.weight:0 p.bias:0",
            "4 in t:1: p.weight:0 p.bias:0 o.weight:1",
        ),
    ),
    "encoder_layer": Case(
        _encoder,
        lambda: {
            "e": nn.Linear(5, 12),
            "l": nn.TransformerEncoderLayer(12, 2, 20, batch_first=True),
            "f": nn.Linear(12, 2),
        },
        (
            "12: e.weight:0 e.bias:0 l.self_attn.in_proj_weight:1 l.self_attn.out_proj.weight:0 "
            "l.self_attn.out_proj.bias:0 l.linear1.weight:1 l.linear2.weight:0 l.linear2.bias:0 "
            "l.norm1.weight:0 l.norm1.bias:0 l.norm2.weight:0 l.norm2.bias:0 f.weight:1",
            "20: l.linear1.weight:0 l.linear1.bias:0 l.linear2.weight:1",
            "2: l.self_attn.in_proj_weight:0 l.self_attn.in_proj_bias:0 "
            "l.self_attn.out_proj.weight:1",
            "6 in l.self_attn.in_proj_weight:0: l.self_attn.in_proj_weight:0 "
            "l.self_attn.in_proj_bias:0",
            "6 in l.self_attn.in_proj_weight:0: l.self_attn.in_proj_weight:0 "
            "l.self_attn.in_proj_bias:0 l.self_attn.out_proj.weight:1",
        ),
    ),
    "cross_attention": Case(
        lambda m, x: m.f(m.l(m.e(x), m.g(x), m.g(x))[0]),
        lambda: {
            "e": nn.Linear(5, 12),
            "g": nn.Linear(5, 12),
            "l": nn.MultiheadAttention(12, 2, batch_first=True),
            "f": nn.Linear(12, 2),
        },
        (
            "12: l.out_proj.weight:0 l.out_proj.bias:0 f.weight:1",
            # One tensor projects queries, keys and values: both streams move alike.
            "12: e.weight:0 e.bias:0 g.weight:0 g.bias:0 l.in_proj_weight:1",
            "2: l.in_proj_weight:0 l.in_proj_bias:0 l.out_proj.weight:1",
            "6 in l.in_proj_weight:0: l.in_proj_weight:0 l.in_proj_bias:0",
            "6 in l.in_proj_weight:0: l.in_proj_weight:0 l.in_proj_bias:0 l.out_proj.weight:1",
        ),
    ),
    "learned_tokens_in_order": Case(  # each looks at those before it
        lambda m, x: m.f(
            F.scaled_dot_product_attention(m.t[None], m.t[None], m.t[None], is_causal=True).mean(1)
            + m.e(x).mean(1)
        ),
        lambda: {"e": nn.Linear(5, 12), "t": parameter(7, 12), "f": nn.Linear(12, 2)},
        ("12: e.weight:0 e.bias:0 t:1 f.weight:1",),
    ),
    "learned_queries": Case(  # tokens of a parameter have no place where all of them are averaged
        lambda m, x: m.f(
            F.scaled_dot_product_attention(m.t[None].expand(len(x), -1, -1), m.e(x), m.e(x)).mean(1)
        ),
        lambda: {"e": nn.Linear(5, 12), "t": parameter(7, 12), "f": nn.Linear(12, 2)},
        ("12: e.weight:0 e.bias:0 t:1 f.weight:1", "7: t:0"),
    ),
}
