"""Boxes of tensors, reordered and rotated; and the rotation nearest to a matrix."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from conjoin.symmetry import Group
from conjoin.symmetry.reordering import place_of, reorder_axes

__all__ = ["drawn", "moved", "nearest", "reflection"]


def moved(
    box: Tensor,
    names: Sequence[str | None],
    dims: Sequence[int],
    groups: Mapping[str, Group],
    orders: Mapping[str, Tensor],
    matrices: Mapping[str, Tensor],
    *,
    but: Sequence[int] = (),
) -> Tensor:
    """Reorder and rotate a box; see `conjoin.symmetry.reordering.reorder_axes`.

    Args:
        box, names, dims, groups, orders: as there; the order of what is rotated is not looked at.
        matrices: of what is rotated.
        but: axes that are left as they are.
    """
    turned = [axis for axis, name in enumerate(names) if name in matrices]
    box = reorder_axes(box, names, dims, groups, orders, but=[*but, *turned])
    for axis in turned:
        if axis in but:
            continue
        name = str(names[axis])
        places = [place_of(outer, axis, names, dims) for outer in groups[name].within]
        matrix = matrices[name].to(box.device, box.dtype)  # [copies..., n, n]
        kept = [*places, axis]
        front = list(range(len(kept)))
        laid = box.movedim(kept, front)  # [copies..., n, rest...]
        shape = laid.shape
        product = matrix @ laid.reshape(*shape[: len(kept)], -1)
        box = product.reshape(shape).movedim(front, kept)
    return box


def nearest(matrix: Tensor, *, keeps_mean: bool = False) -> Tensor:
    """Give the orthogonal Q with the largest ``sum(Q * matrix)``: [..., n, n].

    With `keeps_mean`, of those for which ``Q @ 1 = 1``.

    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966.
    """
    if keeps_mean:
        return _around_ones(matrix.shape[-1], lambda basis: nearest(basis.mT @ matrix @ basis))
    left, _, right = torch.linalg.svd(matrix)
    found: Tensor = left @ right
    return found


def drawn(shape: Sequence[int], generator: torch.Generator, *, keeps_mean: bool = False) -> Tensor:
    """Draw orthogonal matrices, each as likely as the others: float64 [..., n, n]."""
    *copies, size, _ = shape
    if keeps_mean:
        inner = drawn((*copies, size - 1, size - 1), generator)
        return _around_ones(size, lambda basis: inner)  # noqa: ARG005
    gaussian = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    found, upper = torch.linalg.qr(gaussian)
    signs = upper.diagonal(dim1=-2, dim2=-1).sign()
    fair: Tensor = found * signs[..., None, :]  # QR alone prefers some
    return fair


def reflection(
    shape: Sequence[int], generator: torch.Generator, *, keeps_mean: bool = False
) -> Tensor:
    """Draw ``I - 2 v v^T``, cheaper than any orthogonal matrix: float64 [..., n, n].

    What a random one does not change, no orthogonal matrix changes: products of them are all.
    """
    vector = torch.randn(tuple(shape[:-1]), generator=generator, dtype=torch.float64)
    if keeps_mean:
        vector = vector - vector.mean(-1, keepdim=True)
    vector = vector / vector.norm(dim=-1, keepdim=True)
    eye = torch.eye(shape[-1], dtype=torch.float64)
    found: Tensor = eye - 2 * vector[..., :, None] * vector[..., None, :]
    return found


def _around_ones(size: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
    """Give what keeps the vector of ones, and is `inner` of a basis of all that has no mean."""
    ones = torch.ones(size, 1, dtype=torch.float64)
    eye = torch.eye(size, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, eye], 1)).Q[:, 1:]
    found: Tensor = basis @ inner(basis) @ basis.mT + 1 / size
    return found
