"""RegMean of a layer whose Gram matrix does not fit in memory: the same, as a ridge regression."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from conjoin.data_statistics import Layer
from conjoin.data_statistics.sums import Moments as ChannelMoments
from conjoin.fitting.moments import Affine
from conjoin.fitting.problem import Part, Problem
from conjoin.fitting.regmean import RIDGE, maps_of, put_map
from conjoin.fitting.solving import solve
from conjoin.methods.averages import linear

__all__ = ["regmean_of_rows"]


def regmean_of_rows(
    layer: Layer,
    parents: Sequence[Mapping[str, Tensor]],
    rows: Callable[[], Iterable[tuple[int, Tensor]]],
    *,
    non_diagonal: float,
    weights: Sequence[float],
    bias: bool,
    memory: float,
) -> tuple[dict[str, Tensor], str]:
    """Do with rows what `conjoin.fitting.regmean.regmean` does with Gram matrices.

    Shrinking what is off the diagonal of a Gram matrix is a ridge. With features divided by the
    root of their second moment ``D = sum_k w_k D_k``,

        W = argmin a sum_k w_k mean |x (W - W_k)^T|^2 + (1 - a) sum_k w_k |D_k^.5 (W - W_k)^T|^2

    and the second sum is ``|D^.5 (W - B)^T|^2`` and a constant, with B the mean of the parents by
    D_k. So it is a regression with the ridge ``(1 - a) / a`` towards B.

    Args:
        layer: linear, or a convolution.
        parents: named tensors.
        rows: gives (number of the parent, its inputs [groups, rows, features]) anew with each call.
        non_diagonal: ``a``.
        weights: how much each parent counts.
        bias: whether the layer's bias is fitted too.
        memory: bytes that a Gram matrix of rows, or all rows, may take.

    Returns:
        name -> tensor, and by what it was solved.

    Raises:
        NonFiniteError: inputs are NaN or infinite.
    """
    each = [one.mT.cpu() for one in maps_of(layer, parents, bias=bias)]
    mean = linear(each, weights=list(weights))  # [groups, features, outputs]
    apart = [one - mean for one in each]

    def whole() -> Iterator[tuple[int, Tensor]]:
        for number, x in rows():
            yield number, torch.cat([x, torch.ones_like(x[..., :1])], 2) if bias else x

    shares = torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)
    moments = shares[:, None, None] * _second_moments(whole(), len(parents))
    total = moments.sum(0)  # [groups, features]
    seen = total > 0
    some = total.where(seen, torch.ones_like(total))
    size = some.sqrt()
    pull = sum((m[:, :, None] * w for m, w in zip(moments, apart, strict=True)), start=0 * mean)
    rest = 1 - non_diagonal + RIDGE
    start = (1 - non_diagonal) * pull / (rest * some[:, :, None])
    if non_diagonal == 0:
        return put_map(layer, parents[0], (mean + start).mT), "each feature alone"

    def stream() -> Iterator[Part]:
        for number, x in whole():
            scaled = x / size[:, None].to(x.device, x.dtype)
            yield number, scaled, x @ apart[number].to(x.device, x.dtype)

    scale = seen.double().mean(-1).clamp(min=1e-200)
    problem = Problem(
        layer.name,
        stream,
        weights,
        Affine(size[:, :, None] * start, torch.zeros_like(mean[:, 0])),
        rest / non_diagonal / scale,
        offset=False,
    )
    solution = solve(problem, memory)
    change = solution.fitted.matrix / size[:, :, None]
    return put_map(layer, parents[0], (mean + change).mT), solution.solved


def _second_moments(rows: Iterable[tuple[int, Tensor]], parents: int) -> Tensor:
    """Give ``mean x^2`` of each parent and feature: float64 [parents, groups, features]."""
    sums = [ChannelMoments(products=False) for _ in range(parents)]
    for number, x in rows:
        sums[number].add(x)
    return torch.stack([(one.variance() + one.mean.square()).cpu() for one in sums])
