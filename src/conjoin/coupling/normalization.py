"""BatchNorm of coupled models that normalizes by the mixture of their data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from conjoin.arguments import as_module
from conjoin.errors import InputError

__all__ = ["pooled_normalization"]


@contextmanager
def pooled_normalization(models: Mapping[str, nn.Module] | Sequence[nn.Module]) -> Iterator[None]:
    """Normalize by the pooled moments of all models while they train, for the block.

    A network that is to know no task has one set of statistics, those of the mixture; coupled
    networks that normalize each by its own batches have never seen those. In this block, BatchNorm
    in training mode takes, of its own batch and of the other models' running statistics,

        mean = sum_i mean_i / N        var = sum_i (var_i + (mean_i - mean)^2) / N

    which is how `conjoin.merge` pools them. Running statistics stay those of each model's own data.
    With the weights of all models equal, this is the training of one network on all data.

    Args:
        models: of one structure; two or more. Layers without running statistics are left alone.

    Raises:
        InputError: fewer than two models, something else, or their BatchNorm layers differ.

    >>> a, b = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    >>> b.running_mean.fill_(4.0) and None
    >>> with pooled_normalization([a, b]):         # own batch: mean 0, var 1; the other: 4 and 1
    ...     y = a(torch.tensor([[-1.0], [1.0]]))   # pooled: mean 2, var 1 + 4
    >>> [round(value, 3) for value in y.flatten().tolist()]
    [-1.342, -0.447]
    """
    given = [models] if isinstance(models, nn.Module) else models
    modules = [as_module(m) for m in (given.values() if isinstance(given, Mapping) else given)]
    if len(modules) < 2:
        raise InputError(f"pooling statistics takes two models or more, not {len(modules)}")
    layers = [
        {n: m for n, m in module.named_modules() if isinstance(m, _BatchNorm)} for module in modules
    ]
    if any(found.keys() != layers[0].keys() for found in layers):
        raise InputError("the models have different BatchNorm layers, so that none can be pooled")
    changed: list[tuple[_BatchNorm, Callable[[Tensor], Tensor] | None]] = []
    try:
        for name in layers[0]:
            same = [found[name] for found in layers]
            if any(layer.running_mean is None for layer in same):
                continue
            if len({layer.num_features for layer in same}) > 1:
                raise InputError(f"the BatchNorm layer {name!r} has another size in some models")
            for layer in same:
                others = [other for other in same if other is not layer]
                # What hooks put there, such as those of accelerate, or a block around this one.
                changed.append((layer, vars(layer).get("forward")))
                layer.forward = _forward(layer, others, layer.forward)  # type: ignore[method-assign, assignment]
        yield
    finally:
        for layer, before in reversed(changed):
            vars(layer).pop("forward", None)
            if before is not None:
                layer.forward = before  # type: ignore[method-assign, assignment]


def _forward(
    layer: _BatchNorm, others: Sequence[_BatchNorm], plain: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if not layer.training:
            return plain(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        wide = x.to(dtype)
        var, mean = torch.var_mean(wide, dims, correction=0)
        _update(layer, mean.detach(), var.detach(), x.numel() // x.shape[1])
        means = [mean, *(_running(other.running_mean, mean) for other in others)]
        variances = [var, *(_running(other.running_var, mean) for other in others)]
        pooled = torch.stack(means).mean(0)
        spread = torch.stack(
            [v + (m - pooled).square() for m, v in zip(means, variances, strict=True)]
        )
        scale = torch.rsqrt(spread.mean(0) + layer.eps)
        shift = -pooled * scale
        if layer.affine:
            scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return torch.addcmul(shift.view(shape), wide, scale.view(shape)).to(x.dtype)

    return forward


@torch.no_grad()
def _update(layer: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics as BatchNorm does: with the unbiased variance."""
    if layer.running_mean is None or layer.running_var is None:
        return
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    rate = layer.momentum
    if rate is None:  # a plain average over all batches
        rate = 1.0 / float(layer.num_batches_tracked or 1)
    layer.running_mean.lerp_(mean.to(layer.running_mean), rate)
    unbiased = var * (count / max(count - 1, 1))
    layer.running_var.lerp_(unbiased.to(layer.running_var), rate)


def _running(statistic: Tensor | None, like: Tensor) -> Tensor:
    return like if statistic is None else statistic.detach().to(like.device, like.dtype)
