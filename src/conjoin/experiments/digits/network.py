"""The thread's network: VGG-like, four blocks and a classifier."""

import torch
from torch import Tensor, nn

from conjoin.errors import InputError

__all__ = ["BLOCKS", "DigitNet", "check_width", "new_network"]

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3))
"""Channels and number of convolutions of each block, at width 1."""

PARTS = ("block_1", "block_2", "block_3", "block_4", "classifier")


class DigitNet(nn.Module):
    """Four blocks of convolution, BatchNorm, ReLU, ended by max pooling; then three linear layers.

        [B, 1, 32, 32] -> [B, 64w, 16, 16] -> [B, 128w, 8, 8] -> [B, 256w, 4, 4] -> [B, 512w, 2, 2]
                       -> 2048w -> 4096w -> 4096w -> classes

    Args:
        width: factor on every number of channels and hidden units; 1 is the thread's network
            (33.6 million parameters), 1/4 suits two CPU cores (2.1 million).
        classes: number of outputs.
        dropout: after each hidden linear layer.

    >>> DigitNet(width=1 / 8)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: float = 1.0, classes: int = 10, dropout: float = 0.25) -> None:
        super().__init__()
        check_width(width)
        channels = 1
        for number, (full, depth) in enumerate(BLOCKS, start=1):
            out = round(full * width)
            setattr(self, f"block_{number}", _block(channels, out, depth))
            channels = out
        hidden = round(4096 * width)
        self.classifier = nn.Sequential(
            nn.Linear(4 * channels, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def features(self, x: Tensor) -> Tensor:
        """Give what the classifier sees: [B, 1, 32, 32] -> [B, 2048w]."""
        for part in PARTS[:-1]:
            x = self.get_submodule(part)(x)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits: [B, 1, 32, 32] -> [B, classes]."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


def check_width(width: float) -> None:
    """Raise an InputError if a network of this width has a block without channels."""
    if width * BLOCKS[0][0] < 1:
        raise InputError(f"width {width} leaves no channel in the first block; use 1/64 or more")


def new_network(seed: int, *, width: float, classes: int = 10) -> DigitNet:
    """Give a network with PyTorch's own initialization, decided by `seed` alone.

    Same seed, same weights: that is what "shared initialization" means in the experiment.
    """
    with torch.random.fork_rng(devices=[]):  # nn's initializers know the global generator only
        torch.manual_seed(seed)
        return DigitNet(width, classes)


def _block(channels: int, out: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, out, 3, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
        channels = out
    return nn.Sequential(*layers, nn.MaxPool2d(2))
