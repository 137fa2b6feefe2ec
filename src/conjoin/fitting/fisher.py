"""The mean of parameters, each weighted by how much its parent's outputs depend on it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.fitting.regmean import task_weights
from conjoin.methods.averages import linear

__all__ = ["fisher"]

FLOOR = 1e-6
"""Of the mean Fisher information of all parameters of all parents."""

SUFFIX = ":fisher"


def fisher(
    parents: Sequence[Mapping[str, Tensor]],
    statistics: Sequence[Mapping[str, Tensor]],
    *,
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Average parameters by the diagonals of their Fisher information, element by element.

        w = sum_i l_i F_i w_i / sum_i l_i F_i        F_i = max(F_i, floor)

    with the task weights l. Where no parent's outputs depend on a parameter, all F are the floor
    (`FLOOR` of the mean over all parameters of all parents), and the result is the weighted mean.
    Equal parents give that parent, in float32 to the bit. It is computed in float64. Running
    statistics of BatchNorm are no parameters: re-estimate them.

    Args:
        parents: named tensors of aligned models of one structure.
        statistics: of each parent on its own data, by `collect_statistics` with ``fisher``.
        weights: how much each parent counts; equal if None. Only ratios matter, beside the size of
            the Fisher information itself: that of a model that is sure of itself is small.

    Returns:
        name -> parameter, of all that the statistics have, in the dtype and on the device of the
        first parent.

    Raises:
        MethodError: `weights` cannot be used.
        InputError: another number of statistics than parents, none of them of a parameter, or of
            different parameters.
        MismatchError: a parameter is missing, or shapes differ.
        NonFiniteError: a parameter or its Fisher information has NaN or infinite values.

    Source: Matena & Raffel, Merging models with Fisher-weighted averaging, NeurIPS 2022
    (arXiv:2111.09832), where the floor is 1e-6 of no scale.

    >>> a, b = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([5.0, 5.0])}
    >>> seen = [{"w:fisher": torch.tensor([3.0, 0.0])}, {"w:fisher": torch.tensor([1.0, 0.0])}]
    >>> fisher([a, b], seen)
    {'w': tensor([2., 3.])}
    """
    shares = task_weights(len(parents), weights)
    if len(statistics) != len(parents):
        raise InputError(f"{len(parents)} parents need as many statistics; found {len(statistics)}")
    names = _names_of(statistics)
    floor = _floor(statistics, names)
    return {
        name: _weighted(
            name,
            [_tensor_of(name, number, parent) for number, parent in enumerate(parents)],
            [one[name + SUFFIX] for one in statistics],
            shares,
            floor,
        )
        for name in names
    }


def _names_of(statistics: Sequence[Mapping[str, Tensor]]) -> list[str]:
    names = [name.removesuffix(SUFFIX) for name in statistics[0] if name.endswith(SUFFIX)]
    for number, one in enumerate(statistics):
        different = set(names) ^ {n.removesuffix(SUFFIX) for n in one if n.endswith(SUFFIX)}
        if different:
            raise InputError(
                f"only one of the statistics 0 and {number} has the Fisher information of "
                f"{min(different)!r}; collect both of models of one structure"
            )
    if not names:
        raise InputError(
            "the statistics have no Fisher information; collect them with "
            'collect_statistics(model, data, what=("fisher",))'
        )
    return names


def _floor(statistics: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> float:
    found = [one[name + SUFFIX] for one in statistics for name in names]
    total = sum(float(tensor.double().sum()) for tensor in found)
    return FLOOR * total / max(1, sum(tensor.numel() for tensor in found))


def _tensor_of(name: str, number: int, parent: Mapping[str, Tensor]) -> Tensor:
    if name not in parent:
        raise MismatchError(f"parent {number} has no tensor {name!r}, but its Fisher information")
    return parent[name].detach()


def _weighted(
    name: str,
    tensors: Sequence[Tensor],
    information: Sequence[Tensor],
    shares: Sequence[float],
    floor: float,
) -> Tensor:
    shapes = [tuple(tensor.shape) for tensor in (*tensors, *information)]
    if len(set(shapes)) > 1:
        raise MismatchError(
            f"{name!r} and its Fisher information must have one shape in all parents; found "
            f"{', '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}"
        )
    device = tensors[0].device
    each = [tensor.to(device, torch.float64) for tensor in tensors]
    mean = linear(each, weights=shares)
    pull, total = torch.zeros_like(mean), torch.zeros_like(mean)
    for tensor, found, share in zip(each, information, shares, strict=True):
        factor = share * found.to(device, torch.float64).clamp(min=floor)
        pull += factor * (tensor - mean)
        total += factor
    if not bool(total.isfinite().all() and mean.isfinite().all()):
        raise NonFiniteError(
            f"{name!r} of a parent, or its Fisher information, has NaN or infinite values"
        )
    change = torch.where(total > 0, pull / total.where(total > 0, torch.ones_like(total)), 0.0)
    return (mean + change).to(tensors[0].dtype)
