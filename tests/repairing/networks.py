"""Small networks for the tests of `repair`."""

import torch
from torch import Tensor, nn

import conjoin


def mlp(seed: int, *, hidden: int = 20, depth: int = 1, bias: bool = True) -> nn.Module:
    """4 inputs, 3 outputs, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(4, hidden, bias=bias), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(hidden, hidden, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden, 3, bias=bias)).double()


class Branches(nn.Module):
    """Convolutions of every kind: strided, dilated, grouped, depthwise, and a shortcut."""

    def __init__(self, *, normalized: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if normalized else nn.Identity()
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.short = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = (self.short(x) + self.grouped(x)).relu()
        return self.head(self.depthwise(x).relu().mean((2, 3)))


def branches(seed: int, *, normalized: bool = False) -> nn.Module:
    """Give one in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Branches(normalized=normalized).double().eval()


def images(count: int, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Inputs of `branches`, with labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 9, 9, generator=generator, dtype=torch.float64) + shift
    return x, torch.randint(5, (count,), generator=generator)


def points(count: int, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Inputs of `mlp`, with labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64) + shift
    return x, torch.randint(3, (count,), generator=generator)


def outputs_of(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run a network with hooks: what every layer with weights gives."""
    found: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(
            lambda module, args, out, name=name: found.__setitem__(name, out.detach())
        )
        for name, part in net.named_modules()
        if next(part.parameters(recurse=False), None) is not None
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


def statistics(value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, the second dimension."""
    flat = value.movedim(1, -1).flatten(0, -2)
    return flat.mean(0), flat.std(0, unbiased=False)


def mean_of(*nets: nn.Module) -> nn.Module:
    """The average."""
    merged = conjoin.merge(list(nets))
    assert isinstance(merged, nn.Module)
    return merged


def same(one, other, tolerance=1e-9):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def same_weights(one, other):
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
