"""Whole networks, small; the number of groups is counted by hand."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 3, 8, 8)


class Block(nn.Module):
    """A residual block with a shortcut that is projected, or is not."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.m = nn.BatchNorm2d(outer)
        self.b = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.n = nn.BatchNorm2d(outer)
        self.s = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, bias=False)

    def forward(self, x):
        y = self.n(self.b(self.m(self.a(x)).relu()))
        return (y + self.s(x)).relu()


def _norm(name: str) -> str:
    return f"{name}.weight:0 {name}.bias:0 {name}.running_mean:0 {name}.running_var:0"


def _unet(m, x):
    d1 = m.d1(x).relu()
    d2 = m.d2(F.max_pool2d(d1, 2)).relu()
    u1 = m.u1(d2)
    return m.f(m.c(torch.cat([u1, d1], 1)).relu())


def _mobile(m, x):
    x = m.s(x)
    y = m.p(F.relu6(m.d(F.relu6(m.e(x)))))
    return m.f((x + y).mean((2, 3)))


def _convnext(m, x):
    x = m.s(x)
    y = m.d(x).permute(0, 2, 3, 1)
    y = m.q(F.gelu(m.p(m.n(y)))) * m.g
    return m.f((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def _vit(m, x):
    tokens = m.p(x).flatten(2).mT
    tokens = torch.cat([m.c.expand(len(x), -1, -1), tokens], 1) + m.e
    return m.f(m.l(tokens)[:, 0])


def _rms(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _rotated(y, cos, sin):
    first, second = y.chunk(2, -1)
    return y * cos + torch.cat([-second, first], -1) * sin


def _llama(m, x):
    """Tokens, grouped queries with rotary positions, a gated MLP, a tied head."""
    x = m.e((x.flatten(1)[:, :5] > 0).long())
    h = _rms(x, m.r)
    q, k, v = (p(h).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (m.q, m.k, m.v))
    q, k = _rotated(q, m.cos, m.sin), _rotated(k, m.cos, m.sin)
    k, v = (y[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2) for y in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + m.o(y.transpose(1, 2).flatten(2))
    h = _rms(x, m.s)
    x = x + m.d(F.silu(m.g(h)) * m.u(h))
    return F.linear(_rms(x, m.t), m.e.weight)


def _llama_parts():
    angles = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    return {
        "e": nn.Embedding(2, 10),
        "q": nn.Linear(10, 24, bias=False),  # 2 x 3 heads of 4
        "k": nn.Linear(10, 8, bias=False),
        "v": nn.Linear(10, 8, bias=False),
        "o": nn.Linear(24, 10, bias=False),
        "g": nn.Linear(10, 14, bias=False),
        "u": nn.Linear(10, 14, bias=False),
        "d": nn.Linear(14, 10, bias=False),
        **{name: nn.Parameter(torch.ones(10)) for name in "rst"},
        "cos": angles.cos(),
        "sin": angles.sin(),
    }


CASES = {
    "resnet": Case(
        lambda m, x: m.f(m.y(m.x(m.m(m.s(x)).relu())).mean((2, 3))),
        lambda: {
            "s": nn.Conv2d(3, 4, 3, bias=False),
            "m": nn.BatchNorm2d(4),
            "x": Block(4, 4),
            "y": Block(4, 5),
            "f": nn.Linear(5, 2),
        },
        (
            f"4: s.weight:0 {_norm('m')} x.a.weight:1 x.b.weight:0 {_norm('x.n')} y.a.weight:1 "
            "y.s.weight:1",
            f"4: x.a.weight:0 {_norm('x.m')} x.b.weight:1",
            f"5: y.a.weight:0 {_norm('y.m')} y.b.weight:1",
            f"5: y.b.weight:0 {_norm('y.n')} y.s.weight:0 f.weight:1",
        ),
    ),
    "unet": Case(
        _unet,
        lambda: {
            "d1": nn.Conv2d(3, 4, 3, padding=1),
            "d2": nn.Conv2d(4, 6, 3, padding=1),
            "u1": nn.ConvTranspose2d(6, 5, 2, stride=2),
            "c": nn.Conv2d(9, 7, 3, padding=1),
            "f": nn.Conv2d(7, 2, 1),
        },
        (
            "4: d1.weight:0 d1.bias:0 d2.weight:1 c.weight:1",
            "6: d2.weight:0 d2.bias:0 u1.weight:0",
            "5: u1.weight:1 u1.bias:0 c.weight:1",
            "7: c.weight:0 c.bias:0 f.weight:1",
        ),
    ),
    "mobilenet": Case(
        _mobile,
        lambda: {
            "s": nn.Conv2d(3, 4, 1),
            "e": nn.Conv2d(4, 10, 1),
            "d": nn.Conv2d(10, 10, 3, padding=1, groups=10),
            "p": nn.Conv2d(10, 4, 1),
            "f": nn.Linear(4, 2),
        },
        (
            "4: s.weight:0 s.bias:0 e.weight:1 p.weight:0 p.bias:0 f.weight:1",
            "10: e.weight:0 e.bias:0 d.weight:0 d.bias:0 p.weight:1",
        ),
    ),
    "convnext": Case(
        _convnext,
        lambda: {
            "s": nn.Conv2d(3, 4, 4, stride=4),
            "d": nn.Conv2d(4, 4, 3, padding=1, groups=4),
            "n": nn.LayerNorm(4),
            "p": nn.Linear(4, 9),
            "q": nn.Linear(9, 4),
            "g": nn.Parameter(torch.full((4,), 1e-6)),
            "f": nn.Linear(4, 2),
        },
        (
            "4: s.weight:0 s.bias:0 d.weight:0 d.bias:0 n.weight:0 n.bias:0 p.weight:1 q.weight:0 "
            "q.bias:0 g:0 f.weight:1",
            "9: p.weight:0 p.bias:0 q.weight:1",
        ),
    ),
    "vit": Case(
        _vit,
        lambda: {
            "p": nn.Conv2d(3, 12, 4, stride=4),
            "c": nn.Parameter(torch.zeros(1, 1, 12)),
            "e": nn.Parameter(torch.randn(1, 5, 12)),
            "l": nn.TransformerEncoderLayer(12, 2, 20, batch_first=True, norm_first=True),
            "f": nn.Linear(12, 2),
        },
        (
            "12: p.weight:0 p.bias:0 c:2 e:2 l.self_attn.in_proj_weight:1 "
            "l.self_attn.out_proj.weight:0 l.self_attn.out_proj.bias:0 l.linear1.weight:1 "
            "l.linear2.weight:0 l.linear2.bias:0 l.norm1.weight:0 l.norm1.bias:0 "
            "l.norm2.weight:0 l.norm2.bias:0 f.weight:1",
            "20: l.linear1.weight:0 l.linear1.bias:0 l.linear2.weight:1",
            "2: l.self_attn.in_proj_weight:0 l.self_attn.in_proj_bias:0 "
            "l.self_attn.out_proj.weight:1",
            "6 in l.self_attn.in_proj_weight:0: l.self_attn.in_proj_weight:0 "
            "l.self_attn.in_proj_bias:0",
            "6 in l.self_attn.in_proj_weight:0: l.self_attn.in_proj_weight:0 "
            "l.self_attn.in_proj_bias:0 l.self_attn.out_proj.weight:1",
        ),
    ),
    "llama": Case(
        _llama,
        _llama_parts,
        (
            "10: e.weight:1 q.weight:1 k.weight:1 v.weight:1 o.weight:0 g.weight:1 u.weight:1 "
            "d.weight:0 r:0 s:0 t:0",
            "14: g.weight:0 u.weight:0 d.weight:1",
            "2: q.weight:0 k.weight:0 v.weight:0 o.weight:1",
            "3 in q.weight:0: q.weight:0 o.weight:1",
            "4 in q.weight:0: v.weight:0 o.weight:1",
        ),
    ),
    "called_twice": Case(  # one module, so that what goes in and what comes out move alike
        lambda m, x: m.f(m.a(m.a(m.s(x)).relu())),
        lambda: {"s": nn.Conv2d(3, 4, 1), "a": nn.Conv2d(4, 4, 3), "f": nn.Conv2d(4, 2, 1)},
        ("4: s.weight:0 s.bias:0 a.weight:0 a.weight:1 a.bias:0 f.weight:1",),
    ),
}
