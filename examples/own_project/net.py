"""The network: a small residual network with BatchNorm."""

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and the way around them: [B, width, H, W] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        return (x + self.layers(x)).relu()


class SmallResNet(nn.Module):
    """For grey images of ten classes: [B, 1, 8, 8] -> logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(16), nn.MaxPool2d(2), Block(16), nn.MaxPool2d(2))
        self.head = nn.Linear(16 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        return self.head(self.blocks(self.stem(images)).flatten(1))
