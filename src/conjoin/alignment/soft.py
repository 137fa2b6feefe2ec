"""Reordering by matrices, that gradients pass through: permutations, or what lies between them.

A group's matrix M is [copies..., n, n], and a tensor x with the group in an axis becomes

    y[i] = sum_j M[i, j] x[j]

in that axis. With M[i, order[i]] = 1 and 0 elsewhere that is the reordering of `Permutations`, with
the same bits. A group that lies within others has a matrix for each of their positions in the
result, and is applied after them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from conjoin.alignment.gains import assign
from conjoin.symmetry.groups import Group, Layout
from conjoin.symmetry.reordering import Change, change_boxes, place_of

__all__ = ["Matrices", "matrix_of", "mixed", "sinkhorn", "straight_through"]

Matrices = Mapping[str, Tensor]
"""Group -> [copies..., size, size]; result first."""

SWEEPS = 200
CLOSE = 1e-4
"""Sinkhorn's iteration ends when all sums are as close to 1 as this, or after so many sweeps."""


def matrix_of(order: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Give the matrices of orders: int64 [..., n] -> [..., n, n].

    >>> matrix_of(torch.tensor([1, 0, 2])).int().tolist()
    [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    """
    return torch.nn.functional.one_hot(order, order.shape[-1]).to(dtype)


def straight_through(shadow: Tensor) -> Tensor:
    """Give the permutation matrix nearest to a shadow; its gradient is passed to the shadow as is.

    Args:
        shadow: [..., n, n], any finite numbers.

    Source: Bengio et al., 2013, arXiv:1308.3432; for orders, Ainsworth et al., ICLR 2023, 3.3.
    """
    order = assign(shadow.detach().double().cpu())
    hard = matrix_of(order, shadow.dtype).to(shadow.device)
    return hard + (shadow - shadow.detach())  # exactly the permutation: the difference is 0


def sinkhorn(shadow: Tensor) -> Tensor:
    """Give ``diag(u) exp(shadow) diag(v)`` with rows and columns that sum to 1.

    The gradient is that of the limit, by implicit differentiation, so that memory does not grow
    with the number of iterations.

    Args:
        shadow: [..., n, n], divided by the temperature already.

    Source: Sinkhorn, 1964; its use and gradient, Pena et al., CVPR 2023, arXiv:2212.12042; the
    system that the gradient solves, Eisenberger et al., CVPR 2022, arXiv:2205.06688.
    """
    found: Tensor = _Sinkhorn.apply(shadow)  # type: ignore[no-untyped-call]
    return found


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shadow: Tensor) -> Tensor:
        logs = shadow
        for _ in range(SWEEPS):
            logs = logs - logs.logsumexp(-2, keepdim=True)
            rows = logs.logsumexp(-1, keepdim=True)
            logs = logs - rows
            if float(rows.abs().max()) < CLOSE:
                break
        result = logs.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Project ``P * gradient`` onto the changes that leave all sums as they are.

        With P the result, that is ``P * (gradient - a 1' - 1 b')``, where a and b solve
        ``a + P b = (P * gradient) 1`` and ``P' a + b = (P * gradient)' 1``.
        """
        (result,) = ctx.saved_tensors
        weighted = (result * gradient).double()
        p = result.double()
        rows, columns = weighted.sum(-1, keepdim=True), weighted.sum(-2).unsqueeze(-1)
        size = p.shape[-1]
        # A constant may go from a to b, which the mean takes away; so may one for each part of a
        # matrix that is a permutation already, of which the small number picks the least.
        system = torch.eye(size, dtype=p.dtype, device=p.device) * (1 + 1e-9) + 1 / size
        b = torch.linalg.solve(system - p.mT @ p, columns - p.mT @ rows)
        a = rows - p @ b
        changes: Tensor = weighted - p * (a + b.mT)
        return changes.to(gradient.dtype)


def mixed(name: str, tensor: Tensor, layout: Layout, matrices: Matrices) -> Tensor:
    """Give a tensor with the matrices of its groups applied to its axes.

    Args:
        name: of the tensor in the layout.
        tensor: floating-point.
        layout: of the model.
        matrices: of all groups.
    """
    return change_boxes(tensor, layout.tensors[name], _applied(layout.groups, matrices))


def _applied(groups: Mapping[str, Group], matrices: Matrices) -> Change:
    def apply(box: Tensor, names: Sequence[str | None], dims: Sequence[int]) -> Tensor:
        found = {name for name in names if name is not None and name in groups}
        # As in `reorder_axes`: an outer group comes first.
        for name in sorted(found, key=lambda name: (bool(groups[name].within), name)):
            for axis in (at for at, other in enumerate(names) if other == name):
                places = [place_of(outer, axis, names, dims) for outer in groups[name].within]
                box = _along(box, matrices[name], axis, places)
        return box

    return apply


def _along(box: Tensor, matrix: Tensor, axis: int, copies: Sequence[int]) -> Tensor:
    """Multiply one axis by a matrix for each position of the axes that tell copies apart."""
    kept = [*copies, axis]
    order = [*kept, *(at for at in range(box.dim()) if at not in kept)]
    laid = box.permute(order)  # [copies..., size, rest...]
    flat = laid.reshape(*laid.shape[: len(kept)], -1)
    result = (matrix.to(box) @ flat).reshape(laid.shape)
    return result.permute([order.index(at) for at in range(box.dim())])
