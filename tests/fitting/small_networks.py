"""Small networks of three kinds, and inputs for them."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block: depthwise and grouped convolutions, a concatenation, BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.alone = nn.BatchNorm2d(10)
        self.back = nn.Conv2d(10, 6, 1)

    def forward(self, x):
        new = self.grouped(F.relu(self.norm(self.depthwise(x))))
        return x + self.back(F.relu(self.alone(torch.cat([x, new], 1))))


class Tokens(nn.Module):
    """Attention, both kinds of its projections, LayerNorm and RMSNorm, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8, bias=False)
        self.last = nn.RMSNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = self.last(x + self.down(F.gelu(self.up(x))))
        return self.head(x.mean(1))


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()


def images(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Block(),
        nn.Flatten(),
        nn.Linear(54, 3),
    ).eval()


def tokens(seed=0):
    torch.manual_seed(seed)
    return Tokens().eval()


def lively(net, seed=1):
    """Give BatchNorm statistics and affine weights that are not those of a new network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.RMSNorm):
                for tensor in part.state_dict(keep_vars=True).values():
                    if tensor.is_floating_point():
                        noise = torch.rand(tensor.shape, generator=generator)
                        tensor.copy_(0.5 + noise)
    return net


def batches(kind, count, seed=0, size=20):
    generator = torch.Generator().manual_seed(seed)
    shape = {mlp: (5,), images: (2, 13, 13), tokens: (6,)}[kind]
    if kind is tokens:
        return list(torch.randint(9, (count, *shape), generator=generator).split(size))
    return list(torch.randn(count, *shape, generator=generator).split(size))


KINDS = [mlp, images, tokens]
