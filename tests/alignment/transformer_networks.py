"""Small transformers, with what their residual streams may or may not go through."""

import torch
from torch import nn


class RMSNorm(nn.Module):
    """Written out, as in Llama; with an offset of 1 as in Gemma."""

    def __init__(self, width, offset=0.0):
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.ones(width) - offset), offset

    def forward(self, x):
        size = x.pow(2).mean(-1, keepdim=True)
        return (self.offset + self.weight) * (x * torch.rsqrt(size + 1e-6))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x


class Block(nn.Module):
    """Attention and a gated hidden layer, with the norm before or after each."""

    def __init__(self, width, heads, hidden, norm, after, scale):
        super().__init__()
        self.heads, self.after = heads, after
        self.norms = nn.ModuleList(norm(width) for _ in range(2))
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)
        self.scale = LayerScale(width) if scale else nn.Identity()

    def attention(self, x):
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.scale(self.out(y.transpose(1, 2).flatten(2)))

    def hidden(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))

    def forward(self, x):
        for norm, part in zip(self.norms, (self.attention, self.hidden), strict=True):
            x = x + (norm(part(x)) if self.after else part(norm(x)))
        return x


class Transformer(nn.Module):
    """Tokens -> what comes next: [B, 9] -> [B, 9, words]."""

    def __init__(
        self, width=24, heads=3, hidden=40, layers=2, words=60, *, norm=RMSNorm, after=False,
        scale=False, tied=False,
    ):  # fmt: skip
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(9, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, hidden, norm, after, scale) for _ in range(layers))
        )
        self.norm = norm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens) + self.places
        return self.head(self.norm(self.blocks(x)))


def transformer(seed, **settings):
    """A transformer none of whose weights is constant, in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Transformer(**settings).double().eval()
    with torch.no_grad():
        for tensor in net.parameters():
            if tensor.dim() == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return net


TOKENS = torch.randint(60, (3, 9), generator=torch.Generator().manual_seed(0))
