"""Small state dicts that tests of the lazy merge share."""

import torch


def norms(means, variances):
    return [
        {"bn.running_mean": torch.tensor(m), "bn.running_var": torch.tensor(v)}
        for m, v in zip(means, variances, strict=True)
    ]


def state(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    tied = draw(3, 2)
    return {
        "conv.weight": draw(4, 3, 2),
        "half": draw(7, dtype=torch.float16),
        "brain": draw(2, 5, dtype=torch.bfloat16),
        "double": draw(3, dtype=torch.float64),
        "scalar": draw(),
        "empty": torch.empty(0, 3),
        "embedding": tied,
        "head": tied,
        "bn.running_mean": draw(4),
        "bn.running_var": draw(4).abs(),
        "bn.num_batches_tracked": torch.tensor(seed),
        "index": torch.arange(6).reshape(2, 3),
    }
