"""Small networks of all kinds, written here: U-Nets, recurrent ones, generators, mixtures."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from conjoin.experiments.digits.network import new_network

NOTES: Mapping[str, str] = {}


def _convolution(inputs: int, outputs: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU())


class UNet(nn.Module):
    """Three depths; skips are concatenated, or added."""

    def __init__(
        self,
        added: bool = False,
        transposed: bool = True,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.added = added
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(i, o, norm), _convolution(o, o, norm))
            for i, o in ((3, 12), (12, 20), (20, 28))
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 2, stride=2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 1))
            for i, o in ((28, 20), (20, 12))
        )
        self.join = nn.ModuleList(_convolution(o if added else 2 * o, o, norm) for o in (20, 12))
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for depth, block in enumerate(self.down):
            x = block(x if depth == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = up(x)
            x = join(x + skip if self.added else torch.cat([x, skip], 1))
        return self.head(x)


class Recurrent(nn.Module):
    """Embedding, a recurrent layer, a head on every step or on the last state."""

    def __init__(self, kind: type[nn.RNNBase], every: bool, **options: object) -> None:
        super().__init__()
        self.every = every
        self.embed = nn.Embedding(30, 10)
        self.layers = kind(10, 16, **options)  # type: ignore[arg-type]
        found = self.layers(torch.zeros(1, 1, 10))[0]
        self.head = nn.Linear(found.shape[-1], 3)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.layers(self.embed(tokens))[0]
        return self.head(found if self.every else found[:, -1])


class EncoderDecoder(nn.Module):
    """A sentence into the state of an LSTM, and out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 10)
        self.encoder = nn.LSTM(10, 16, batch_first=True)
        self.decoder = nn.LSTM(10, 16, batch_first=True)
        self.head = nn.Linear(16, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, state = self.encoder(self.embed(source))
        return self.head(self.decoder(self.embed(target), state)[0])


class Cells(nn.Module):
    """An LSTMCell and a GRUCell, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(6, 12), nn.GRUCell(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c, g = x.new_zeros(len(x), 12), x.new_zeros(len(x), 12), x.new_zeros(len(x), 8)
        for step in range(x.shape[1]):
            h, c = self.lstm(x[:, step], (h, c))
            g = self.gru(h, g)
        return self.head(g)


class Translator(nn.Module):
    """`nn.Transformer`, with positions and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(30, 24), nn.Parameter(torch.randn(8, 24))
        self.model = nn.Transformer(24, 4, 2, 2, 40, batch_first=True)
        self.head = nn.Linear(24, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        one, other = (self.embed(t) + self.places[: t.shape[1]] for t in (source, target))
        return self.head(self.model(one, other, tgt_mask=mask, tgt_is_causal=True))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions with a channel shuffle, squeeze-excitation, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = _convolution(3, 24), nn.Conv2d(24, 24, 3, padding=1, groups=4)
        self.depth, self.second = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 24, 1)
        self.squeeze, self.excite = nn.Linear(24, 6), nn.Linear(6, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.channel_shuffle(self.first(x).relu(), 4)
        y = self.second(self.depth(y).relu())
        gate = self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()
        return self.head((x + y * gate[:, :, None, None]).mean((2, 3)))


class PointNet(nn.Module):
    """Points without an order, and a transformation that the network makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.make = nn.Linear(16, 9)
        self.features = nn.Sequential(nn.Conv1d(3, 20, 1), nn.BatchNorm1d(20), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        turned = self.make(self.own(x).amax(2)).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.features(turned @ x).amax(2))


class Mixture(nn.Module):
    """Experts in one tensor each, all run, mixed by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(12, 6)
        self.rise = nn.Parameter(torch.randn(6, 12, 20) / 4)
        self.fall = nn.Parameter(torch.randn(6, 20, 12) / 4)
        self.embed, self.head = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        inner = torch.einsum("bi,eih->beh", x, self.rise).relu()
        outer = torch.einsum("beh,ehi->bei", inner, self.fall)
        return self.head(x + (self.router(x).softmax(-1)[..., None] * outer).sum(1))


class Hypernetwork(nn.Module):
    """A network whose output is the weight of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 12 * 4))
        self.bias, self.head = nn.Parameter(torch.randn(12)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.make(x).view(-1, 12, 4)
        return self.head((torch.einsum("boi,bi->bo", weight, x) + self.bias).relu())


class Graph(nn.Module):
    """Two graph convolutions on a dense adjacency, then a sum over nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        edges = edges.softmax(-1)
        return self.head((edges @ self.second((edges @ self.first(x)).relu())).relu().sum(1))


class Dilated(nn.Module):
    """Gated dilated convolutions with weight normalization and skips, as in WaveNet."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(1, 12, 1)
        self.gates = nn.ModuleList(
            weight_norm(nn.Conv1d(12, 2 * 16, 2, dilation=d)) for d in (1, 2, 4)
        )
        self.backs = nn.ModuleList(nn.Conv1d(16, 12, 1) for _ in self.gates)
        self.skips = nn.ModuleList(nn.Conv1d(16, 10, 1) for _ in self.gates)
        self.head = nn.Conv1d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        total: Tensor | float = 0.0
        for gate, back, skip in zip(self.gates, self.backs, self.skips, strict=True):
            a, b = gate(F.pad(x, (int(gate.dilation[0]), 0))).chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            total, x = total + skip(y), x + back(y)
        return self.head(total)


class Siamese(nn.Module):
    """One branch, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12))
        self.head = nn.Bilinear(12, 12, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.branch(x), self.branch(y))


def _generator() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(8, 24 * 4 * 4), nn.Unflatten(1, (24, 4, 4))]
    for inputs, outputs in ((24, 16), (16, 12)):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
    return nn.Sequential(*layers, nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 3, 3, padding=1))


def _discriminator() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 12, 4, 2, 1)), nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(12, 20, 4, 2, 1)), nn.LeakyReLU(0.2),
        nn.Flatten(), spectral_norm(nn.Linear(20 * 4 * 4, 1)),
    )  # fmt: skip


def _super_resolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1),
        nn.PixelShuffle(2), nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(32, 3, 1),
    )  # fmt: skip


def _solid() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 12, 3, padding=1), nn.ELU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(),
        nn.Linear(96, 5),
    )  # fmt: skip


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 24),
        nn.BatchNorm1d(24), nn.GLU(), nn.Linear(12, 4),
    )  # fmt: skip


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True, norm_first=True)
    return nn.Sequential(
        nn.Linear(6, 24), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Linear(24, 3),
    )  # fmt: skip


def _tokens(*shape: int) -> Tensor:
    return torch.randint(30, shape)


def _images(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size)


def builds() -> Mapping[str, Callable[[], tuple[nn.Module, Tensor | tuple[Tensor, ...]]]]:
    """Name the models, and how each is made."""
    return {
        "mlp": lambda: (_mlp(), torch.randn(2, 8)),
        "digits": lambda: (new_network(0, width=1 / 8), torch.randn(2, 1, 32, 32)),
        "unet": lambda: (UNet(), _images()),
        "unet_group_norm": lambda: (UNet(norm=lambda c: nn.GroupNorm(4, c)), _images()),
        "unet_resized": lambda: (UNet(transposed=False), _images()),
        "unet_added": lambda: (UNet(added=True), _images()),
        "grouped": lambda: (Grouped(), _images()),
        "generator": lambda: (_generator(), torch.randn(2, 8)),
        "discriminator": lambda: (_discriminator(), _images()),
        "super_resolution": lambda: (_super_resolution(), _images(8)),
        "solid": lambda: (_solid(), torch.randn(2, 1, 8, 8, 8)),
        "dilated": lambda: (Dilated(), torch.randn(2, 1, 20)),
        "lstm": lambda: (Recurrent(nn.LSTM, False, batch_first=True), _tokens(2, 7)),
        "lstm_two_ways": lambda: (
            Recurrent(nn.LSTM, True, batch_first=True, num_layers=2, bidirectional=True),
            _tokens(2, 7),
        ),
        "lstm_projected": lambda: (
            Recurrent(nn.LSTM, True, batch_first=True, num_layers=2, proj_size=6),
            _tokens(2, 7),
        ),
        "gru": lambda: (Recurrent(nn.GRU, False, batch_first=True, num_layers=2), _tokens(2, 7)),
        "gru_two_ways": lambda: (
            Recurrent(nn.GRU, True, batch_first=True, bidirectional=True),
            _tokens(2, 7),
        ),
        "rnn": lambda: (Recurrent(nn.RNN, True, batch_first=True), _tokens(2, 7)),
        "lstm_encoder_decoder": lambda: (EncoderDecoder(), (_tokens(2, 7), _tokens(2, 5))),
        "cells": lambda: (Cells(), torch.randn(2, 5, 6)),
        "encoder": lambda: (_encoder(), torch.randn(2, 7, 6)),
        "translator": lambda: (Translator(), (_tokens(2, 7), _tokens(2, 5))),
        "point_net": lambda: (PointNet(), torch.randn(2, 3, 11)),
        "mixture": lambda: (Mixture(), torch.randn(2, 5)),
        "hypernetwork": lambda: (Hypernetwork(), torch.randn(2, 4)),
        "graph": lambda: (Graph(), (torch.randn(2, 9, 5), torch.randn(2, 9, 9))),
        "siamese": lambda: (Siamese(), (torch.randn(2, 6), torch.randn(2, 6))),
    }
