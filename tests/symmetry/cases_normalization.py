"""Norms, with their weights and statistics; normed and parametrized weights."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def inputs() -> Tensor:
    return torch.randn(3, 3, 2, 4)  # batch, channels, height, width


def _ends(channels: int, **parts: nn.Module):
    return {"a": nn.Conv2d(3, channels, 1), "b": nn.Conv2d(channels, 2, 1), **parts}


def _forward(m, x):
    return m.b(m.n(m.a(x)).relu())


def _forward_last(m, x):
    return m.b(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


STATISTICS = "n.running_mean:0 n.running_var:0"
NORMED = "5: a.weight:0 a.bias:0 n.weight:0 n.bias:0 b.weight:1"

CASES = {
    "batch_norm": Case(
        _forward, lambda: _ends(5, n=nn.BatchNorm2d(5)), (f"{NORMED} {STATISTICS}",)
    ),
    "batch_norm_plain": Case(
        _forward,
        lambda: _ends(5, n=nn.BatchNorm2d(5, affine=False)),
        (f"5: a.weight:0 a.bias:0 b.weight:1 {STATISTICS}",),
    ),
    "batch_norm_of_batch": Case(  # no statistics are kept: those of the batch are used
        _forward, lambda: _ends(5, n=nn.BatchNorm2d(5, track_running_stats=False)), (NORMED,)
    ),
    "batch_norm_that_goes_on_learning": Case(  # its statistics change in every call
        lambda m, x: m.b(
            F.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias, True)
        ),
        lambda: _ends(5, n=nn.BatchNorm2d(5)),
        (f"{NORMED} {STATISTICS}",),
    ),
    "instance_norm": Case(
        _forward, lambda: _ends(5, n=nn.InstanceNorm2d(5, affine=True)), (NORMED,)
    ),
    "instance_norm_with_statistics": Case(
        _forward,
        lambda: _ends(5, n=nn.InstanceNorm2d(5, affine=True, track_running_stats=True)),
        (f"{NORMED} {STATISTICS}",),
    ),
    "group_norm": Case(
        _forward,
        lambda: _ends(6, n=nn.GroupNorm(2, 6)),
        (
            "2: a.weight:0 a.bias:0 n.weight:0 n.bias:0 b.weight:1",
            "3 in a.weight:0: a.weight:0 a.bias:0 n.weight:0 n.bias:0 b.weight:1",
        ),
    ),
    "group_norm_of_all": Case(_forward, lambda: _ends(5, n=nn.GroupNorm(1, 5)), (NORMED,)),
    "layer_norm": Case(_forward_last, lambda: _ends(5, n=nn.LayerNorm(5)), (NORMED,)),
    "layer_norm_plain": Case(
        _forward_last,
        lambda: _ends(5, n=nn.LayerNorm(5, elementwise_affine=False)),
        ("5: a.weight:0 a.bias:0 b.weight:1",),
    ),
    "layer_norm_of_all": Case(_forward, lambda: _ends(5, n=nn.LayerNorm([5, 2, 4])), (NORMED,)),
    "rms_norm": Case(
        _forward_last,
        lambda: _ends(5, n=nn.RMSNorm(5)),
        ("5: a.weight:0 a.bias:0 n.weight:0 b.weight:1",),
    ),
    "rms_norm_by_hand": Case(
        lambda m, x: m.b(m.w * m.a(x) * torch.rsqrt(m.a(x).pow(2).mean(1, keepdim=True) + 1e-6)),
        lambda: _ends(5, w=parameter(5, 1, 1)),
        ("5: a.weight:0 a.bias:0 w:0 b.weight:1",),
    ),
    "layer_norm_outside": Case(  # over the 3 at each of 4, which so move alike in all 3
        lambda m, x: m.b(F.layer_norm(m.a(x.flatten(1)).view(-1, 3, 4).mT, (3,)).mT.flatten(1)),
        lambda: {"a": nn.Linear(24, 12), "b": nn.Linear(12, 2)},
        ("4: a.weight:0 a.bias:0 b.weight:1", "3 in a.weight:0#1: a.weight:0 a.bias:0 b.weight:1"),
    ),
    "weight_norm": Case(
        _forward,
        lambda: _ends(5, n=parametrizations.weight_norm(nn.Conv2d(5, 5, 1))),
        (
            "5: a.weight:0 a.bias:0 n.parametrizations.weight.original1:1",
            "5: n.parametrizations.weight.original0:0 n.parametrizations.weight.original1:0 "
            "n.bias:0 b.weight:1",
        ),
    ),
    "spectral_norm": Case(  # its singular vectors move with the weight
        _forward,
        lambda: (
            _ends(5, n=parametrizations.spectral_norm(nn.Conv2d(5, 6, 1)))
            | {"b": nn.Conv2d(6, 2, 1)}
        ),
        (
            "5: a.weight:0 a.bias:0 n.parametrizations.weight.original:1 "
            "n.parametrizations.weight.0._v:0",
            "6: n.parametrizations.weight.original:0 n.parametrizations.weight.0._u:0 n.bias:0 "
            "b.weight:1",
        ),
    ),
    "standardized_weight": Case(  # a norm of weights, as NFNet has it
        lambda m, x: m.b(
            F.conv2d(
                m.a(x),
                F.batch_norm(m.w.view(1, 6, -1), None, None, m.g, training=True).view_as(m.w),
            )
        ),
        lambda: (
            {**_ends(5), "w": parameter(6, 5, 1, 1), "g": parameter(6)} | {"b": nn.Conv2d(6, 2, 1)}
        ),
        ("5: a.weight:0 a.bias:0 w:1", "6: w:0 g:0 b.weight:1"),
    ),
}
