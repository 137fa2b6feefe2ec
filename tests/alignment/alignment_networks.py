"""Small networks with all kinds of groups."""

import itertools

import torch
from torch import nn


def mlp(*sizes):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


class Attention(nn.Module):
    """Two heads of three units, and a residual stream of four."""

    def __init__(self, width=4, heads=2, units=3, words=6):
        super().__init__()
        self.shape = heads, units
        self.words = nn.Embedding(words, width)
        self.q, self.k, self.v = (nn.Linear(width, heads * units) for _ in range(3))
        self.out = nn.Linear(heads * units, width)
        self.head = nn.Linear(width, words)

    def forward(self, x):
        x = self.words(x)
        q, k, v = (f(x).unflatten(-1, self.shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.LSTM(5, 6, num_layers=2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x)[0])


class Residual(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width))
        self.branch = nn.Sequential(
            nn.Conv2d(width, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
            nn.Conv2d(10, width, 1),
        )  # fmt: skip
        self.square = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(2 * width * 4, 5)

    def forward(self, x):
        y = self.stem(x).relu()
        y = y + self.branch(y)
        y = torch.cat([y + self.square(y), y], 1)
        return self.head(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))


TOKENS = torch.tensor([[0, 1, 2, 3], [5, 4, 1, 0]])
NETWORKS = {
    "mlp": (lambda: mlp(4, 9, 7, 3), torch.randn(2, 4)),
    "attention": (lambda: Attention(8, 3, 5, 11), TOKENS),
    "recurrent": (Recurrent, torch.randn(2, 4, 5)),
    "residual": (Residual, torch.randn(2, 3, 6, 6)),
}


def new(make, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()
