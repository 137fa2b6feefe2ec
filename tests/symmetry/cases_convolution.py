"""Convolution of any kind, pooling, resampling, patches. The batch is as large as the channels."""

import torch
import torch.nn.functional as F
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 3, 6, 6)  # batch, channels, height, width


def _ends(inner: int = 5, outer: int = 5):
    return {"a": nn.Conv2d(3, inner, 1), "b": nn.Conv2d(outer, 2, 1)}


def _transformer(m, x):
    theta = m.e(m.d(x.flatten(1)).relu()).view(-1, 2, 3)
    grid = F.affine_grid(theta, (len(x), 5, 4, 4), align_corners=False)
    return m.b(F.grid_sample(m.a(x), grid, align_corners=False))


PLAIN = ("5: a.weight:0 a.bias:0 b.weight:1",)
FLAT = ("5: a.weight:0 a.bias:0 f.weight:1",)

CASES = {
    "conv1d": Case(
        lambda m, x: m.b(m.a(x.flatten(2)).relu()),
        lambda: {"a": nn.Conv1d(3, 5, 3, padding=1), "b": nn.Conv1d(5, 2, 3)},
        PLAIN,
    ),
    "conv2d": Case(
        lambda m, x: m.b(m.a(x).relu()),
        lambda: {"a": nn.Conv2d(3, 5, 3, stride=2), "b": nn.Conv2d(5, 2, 2, dilation=1)},
        PLAIN,
    ),
    "conv3d": Case(
        lambda m, x: m.b(m.a(x[:, :, None]).relu()),
        lambda: {"a": nn.Conv3d(3, 5, (1, 3, 3)), "b": nn.Conv3d(5, 2, 1, bias=False)},
        PLAIN,
    ),
    "transposed1d": Case(
        lambda m, x: m.b(m.t(m.a(x.flatten(2))).relu()),
        lambda: {
            "a": nn.Conv1d(3, 5, 1),
            "t": nn.ConvTranspose1d(5, 7, 2, stride=2),
            "b": nn.Conv1d(7, 2, 1),
        },
        ("5: a.weight:0 a.bias:0 t.weight:0", "7: t.weight:1 t.bias:0 b.weight:1"),
    ),
    "transposed2d": Case(
        lambda m, x: m.b(m.t(m.a(x)).relu()),
        lambda: {**_ends(5, 7), "t": nn.ConvTranspose2d(5, 7, 2, stride=2)},
        ("5: a.weight:0 a.bias:0 t.weight:0", "7: t.weight:1 t.bias:0 b.weight:1"),
    ),
    "transposed3d": Case(
        lambda m, x: m.b(m.t(m.a(x[:, :, None]))),
        lambda: {
            "a": nn.Conv3d(3, 5, 1),
            "t": nn.ConvTranspose3d(5, 7, 1, bias=False),
            "b": nn.Conv3d(7, 2, 1),
        },
        ("5: a.weight:0 a.bias:0 t.weight:0", "7: t.weight:1 b.weight:1"),
    ),
    "grouped": Case(  # 2 groups of 3 inputs and 4 outputs
        lambda m, x: m.b(m.g(m.a(x)).relu()),
        lambda: {**_ends(6, 8), "g": nn.Conv2d(6, 8, 3, groups=2)},
        (
            "2: a.weight:0 a.bias:0 g.weight:0 g.bias:0 b.weight:1",
            "3 in a.weight:0: a.weight:0 a.bias:0 g.weight:1",
            "4 in a.weight:0: g.weight:0 g.bias:0 b.weight:1",
        ),
    ),
    "grouped_transposed": Case(
        lambda m, x: m.b(m.g(m.a(x)).relu()),
        lambda: {**_ends(6, 8), "g": nn.ConvTranspose2d(6, 8, 3, groups=2)},
        (
            "2: a.weight:0 a.bias:0 g.weight:0 g.bias:0 b.weight:1",
            "3 in a.weight:0: a.weight:0 a.bias:0 g.weight:0",
            "4 in a.weight:0: g.weight:1 g.bias:0 b.weight:1",
        ),
    ),
    "depthwise": Case(  # two outputs of each channel
        lambda m, x: m.b(m.g(m.a(x)).relu()),
        lambda: {**_ends(5, 10), "g": nn.Conv2d(5, 10, 3, groups=5)},
        (
            "5: a.weight:0 a.bias:0 g.weight:0 g.bias:0 b.weight:1",
            "2 in a.weight:0: g.weight:0 g.bias:0 b.weight:1",
        ),
    ),
    "of_input_groups": Case(  # groups of the input are in their place, outputs of a group are not
        lambda m, x: m.b(m.g(x).relu()),
        lambda: {"g": nn.Conv2d(3, 12, 3, groups=3), "b": nn.Conv2d(12, 2, 1)},
        ("4 in elsewhere: g.weight:0 g.bias:0 b.weight:1",),
    ),
    "pooling": Case(
        lambda m, x: m.f(F.avg_pool2d(F.max_pool2d(m.a(x), 2), 2).flatten(1)),
        lambda: {"a": nn.Conv2d(3, 5, 3, padding=1), "f": nn.Linear(5, 2)},
        FLAT,
    ),
    "pooling1d": Case(
        lambda m, x: m.b(F.avg_pool1d(F.max_pool1d(m.a(x.flatten(2)), 2), 2)),
        lambda: {"a": nn.Conv1d(3, 5, 1), "b": nn.Conv1d(5, 2, 1)},
        PLAIN,
    ),
    "pooling3d": Case(
        lambda m, x: m.b(F.avg_pool3d(F.max_pool3d(m.a(x[:, :, None]), (1, 2, 2)), 1)),
        lambda: {"a": nn.Conv3d(3, 5, 1), "b": nn.Conv3d(5, 2, 1)},
        PLAIN,
    ),
    "pooled_channels": Case(  # a pooling over features is a pooling all the same
        lambda m, x: F.avg_pool1d(m.a(x).flatten(2).mT, 5),
        lambda: {"a": nn.Conv2d(3, 10, 1)},
        (),
    ),
    "adaptive": Case(  # channels before places: the flattened axis is their product
        lambda m, x: m.f(F.adaptive_avg_pool2d(F.adaptive_max_pool2d(m.a(x), 4), 2).flatten(1)),
        lambda: {"a": nn.Conv2d(3, 5, 1), "f": nn.Linear(20, 2)},
        FLAT,
    ),
    "flat_places_first": Case(
        lambda m, x: m.f(F.adaptive_avg_pool2d(m.a(x), 2).permute(0, 2, 3, 1).flatten(1)),
        lambda: {"a": nn.Conv2d(3, 5, 1), "f": nn.Linear(20, 2)},
        FLAT,
    ),
    "nearest": Case(
        lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2)), lambda: _ends(), PLAIN
    ),
    "bilinear": Case(
        lambda m, x: m.b(F.interpolate(m.a(x), size=(4, 7), mode="bilinear")),
        lambda: _ends(),
        PLAIN,
    ),
    "bicubic": Case(
        lambda m, x: m.b(F.interpolate(m.a(x), size=9, mode="bicubic", antialias=True)),
        lambda: _ends(),
        PLAIN,
    ),
    "padded": Case(
        lambda m, x: m.b(F.pad(F.pad(m.a(x), (1, 1, 1, 1), "reflect"), (1, 0, 0, 1), "replicate")),
        lambda: _ends(),
        PLAIN,
    ),
    "grid": Case(
        _transformer,
        lambda: {**_ends(), "d": nn.Linear(108, 7), "e": nn.Linear(7, 6)},
        ("7: d.weight:0 d.bias:0 e.weight:1", *PLAIN),
    ),
    "sampled_where_learned": Case(  # rows, columns and coordinates of a grid have an order
        lambda m, x: m.b(
            F.grid_sample(m.a(x), m.g(x[:, 0, 0]).view(-1, 4, 5, 2).tanh(), align_corners=False)
        ),
        lambda: {**_ends(), "g": nn.Linear(6, 40)},
        PLAIN,
    ),
    "sampled_for_each": Case(  # 7 images, 7 grids
        lambda m, x: (
            x.mean() * F.grid_sample(m.p, m.g.tanh(), align_corners=False).mean((0, 2, 3)) @ m.w
        ),
        lambda: {"p": parameter(7, 5, 4, 4), "g": parameter(7, 3, 3, 2), "w": parameter(5, 2)},
        ("7: p:0 g:0", "5: p:1 w:0"),
    ),
    "patches_of_learned_places": Case(
        lambda m, x: x.mean() * m.f(F.unfold(m.p, 2).mean(2)),
        lambda: {"p": parameter(1, 5, 4, 4), "f": nn.Linear(20, 2)},
        ("5: p:1 f.weight:1",),
    ),
    "patches": Case(  # a channel's 4 places lie side by side
        lambda m, x: m.f(F.unfold(m.a(x), 2).mT),
        lambda: {"a": nn.Conv2d(3, 5, 1), "f": nn.Linear(20, 2)},
        FLAT,
    ),
    "places_of_patches": Case(
        lambda m, x: m.g(F.unfold(m.a(x), 2)).mean(1),
        lambda: {"a": nn.Conv2d(3, 5, 1), "g": nn.Linear(25, 2)},
        ("5: a.weight:0 a.bias:0",),
    ),
    "places_from_patches": Case(
        lambda m, x: m.g(F.fold(m.a(x.flatten(2)), (7, 7), 2)).mean((1, 2)),
        lambda: {"a": nn.Conv1d(3, 20, 1), "g": nn.Linear(7, 2)},
        ("5: a.weight:0 a.bias:0",),
    ),
    "from_patches": Case(
        lambda m, x: m.b(F.fold(m.a(x.flatten(2)), (7, 7), 2)),
        lambda: {"a": nn.Conv1d(3, 20, 1), "b": nn.Conv2d(5, 2, 1)},
        PLAIN,
    ),
    "squeeze_excitation": Case(
        lambda m, x: m.b(m.a(x) * m.e(m.r(m.a(x).mean((2, 3), keepdim=True)).relu()).sigmoid()),
        lambda: {**_ends(), "r": nn.Conv2d(5, 4, 1), "e": nn.Conv2d(4, 5, 1)},
        (
            "5: a.weight:0 a.bias:0 r.weight:1 e.weight:0 e.bias:0 b.weight:1",
            "4: r.weight:0 r.bias:0 e.weight:1",
        ),
    ),
    "weights_as_data": Case(  # a hypernetwork makes the kernel
        lambda m, x: m.b(F.conv2d(m.a(x), m.w.relu(), m.c)),
        lambda: {**_ends(5, 7), "w": parameter(7, 5, 1, 1), "c": parameter(7)},
        ("5: a.weight:0 a.bias:0 w:1", "7: w:0 c:0 b.weight:1"),
    ),
}
