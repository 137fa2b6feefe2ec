"""A small network with BatchNorm in many places, and inputs of two tasks."""

import torch
from torch import nn

import conjoin


class Small(nn.Module):
    """Folded are BatchNorm behind depthwise, plain and linear layers; kept, behind a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.deep, self.norm_deep = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.back, self.norm_back = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.norm_sum = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)
        self.norm_head = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm_one(self.one(x)).relu()
        new = self.norm_back(self.back(self.norm_deep(self.deep(x)).relu()))
        x = self.norm_sum(x + new).relu()
        return self.last(self.norm_head(self.head(x.mean((2, 3)))).relu())


def small(seed=0):
    """Trained enough that BatchNorm has statistics of its own."""
    torch.manual_seed(seed)
    net = Small()
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.5)
    return conjoin.reestimate_batchnorm(net, [images(seed + 10, 60)]).eval()


def images(seed, count=150):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 8, 8, generator=generator) + 0.3 * seed


DATA = [[images(0)], [images(1)]]
