"""Singular directions of a matrix, and the orthogonalisation of directions of several.

Everything here is float64. Seconds of one core for 1024 x 1024 (of condition 8e4) and 4096 x 1024,
and the error of ``sum_j u_j v_j^T`` over all directions of the former, in the spectral norm:

    Gram matrix and `eigh`, float64     0.27    0.51    1e-9
    LAPACK's SVD, float64               0.39    0.95
    LAPACK's SVD, float32               0.28    0.58    2e-4

So matrices of float32 are decomposed by their Gram matrix in float64. It squares singular values,
so that those below 1e-8 of the largest drown; but rounding to float32 has drowned them before.
Matrices of float64 go to LAPACK.

Products of matrices and LAPACK add up in an order that depends on the number of torch's threads.
That turns the last bit of 1e-5 to 1e-4 of the elements of a result in float32 (300 to 700 rows, two
threads instead of one). Runs that write files use one thread, so their bits are the same.

A direction whose singular value is a rounding is no direction: any other would do as well, and the
next machine takes another. So they are left out, here and in every method that uses this.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Directions", "Svd", "find_directions", "is_randomized", "isometry"]

Svd: TypeAlias = Literal["auto", "exact", "randomized"]

# Above this length of the shorter side, and up to one direction in so many, chance pays: for an
# eighth of the directions of 4096 x 4096 it takes 7 s instead of 19.
_LARGE = 2048
_FEW = 8
# The subspace that is searched: so many more directions than asked for, after so many rounds.
_MORE = 8
_ROUNDS = 3
# A singular value below this many roundings of the largest is one.
_ROUNDINGS = 10
# Precision of elements under which a Gram matrix in float64 is not enough.
_FINE = 1e-10
# Sums of orthonormal blocks whose singular value is below this part of the largest say the same.
# Of two random halves of a space of N dimensions, the smallest is about 1 / N.
_SAME = 1e-5
# Torch loads its linear algebra of GPUs at the first call, and fails if two threads call it then.
_ON_GPU = Lock()


@dataclass(frozen=True, slots=True)
class Directions:
    """The leading part of a singular value decomposition: ``sum_j s_j u_j v_j^H``.

    Args:
        left: ``u``, [m, k], orthonormal columns.
        sizes: ``s``, [k], real, falling, above zero.
        right: ``v``, [n, k], orthonormal columns.
    """

    left: Tensor
    sizes: Tensor
    right: Tensor


def is_randomized(shape: Sequence[int], count: int, svd: Svd = "auto") -> bool:
    """Say whether `find_directions` is randomized: large matrices, few directions.

    >>> is_randomized((4096, 11008), 512), is_randomized((4096, 4096), 2048)
    (True, False)
    """
    short = min(shape)
    if svd == "auto":
        return short > _LARGE and count * _FEW <= short
    return svd == "randomized" and (_ROUNDS + 1) * (count + _MORE) < short


def find_directions(
    matrix: Tensor, count: int, *, eps: float, floor: float = 0.0, svd: Svd = "auto"
) -> Directions:
    """Find the leading singular directions of a matrix.

    The randomized search (block Krylov, Musco and Musco, NeurIPS 2015, arXiv:1504.05477) looks in
    ``[Y, AA^H Y, (AA^H)^2 Y, (AA^H)^3 Y]``, Y = AX, for a random X of `count` + 8 columns. Within
    that space it is exact. Of the sum of the squares of the `count` largest singular values, for an
    eighth of the directions, it misses 4e-5 of a 4096 x 4096 matrix of normal numbers whose columns
    fall like ``j^-0.5``, under 1e-5 where singular values fall like ``j^-0.7``, and 0.5 % where
    they are much alike: normal numbers, 2048 x 2048, of which no directions stand out anyway.
    Its random numbers depend on the shape alone: the same matrix has the same directions, in any
    order of work and in every process.

    Args:
        matrix: ``A``, [m, n], float64 or complex128, finite.
        count: how many; there may be fewer.
        eps: relative precision of the elements.
        floor: a singular value up to this is zero.
        svd: exact, randomized (if that means less work), or by the rule of `is_randomized`.

    >>> found = find_directions(torch.tensor([[0.0, 3.0], [-2.0, 0.0]]).double(), 1, eps=1e-7)
    >>> found.sizes.tolist(), found.left.abs().flatten().tolist()
    ([3.0], [1.0, 0.0])
    """
    rows, columns = matrix.shape
    if rows < columns:
        found = find_directions(matrix.mH, count, eps=eps, floor=floor, svd=svd)
        return Directions(found.right, found.sizes, found.left)
    if is_randomized(matrix.shape, count, svd):
        basis = _search(matrix, count)
        within = _decompose(basis.mH @ matrix, eps)
        left, sizes, right = basis @ within.left, within.sizes, within.right
    else:
        whole = _decompose(matrix, eps)
        left, sizes, right = whole.left, whole.sizes, whole.right
    least = max(floor, _ROUNDINGS * eps * float(sizes[0])) if sizes.numel() else 0.0
    count = min(count, int((sizes > least).sum()))
    return Directions(left[:, :count], sizes[:count], right[:, :count])


def isometry(blocks: Tensor) -> Tensor:
    """Give the nearest matrix of orthonormal directions: ``U V^H`` of ``B = U S V^H``.

    That solves the orthogonal Procrustes problem, ``min |B - X|`` over X with orthonormal columns
    (rows, if there are more columns than rows), and is ``B (B^H B)^-1/2``. Where blocks have a
    direction in common, B lacks one, and X is not unique; this one adds nothing that B lacks.

    Args:
        blocks: ``B``, [m, k], float64: orthonormal columns of several matrices side by side.

    Returns:
        [m, k].

    >>> isometry(torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double()).mul(2**0.5)
    tensor([[1.0000, 1.0000],
            [0.0000, 0.0000]], dtype=torch.float64)
    """
    if blocks.shape[0] < blocks.shape[1]:
        return isometry(blocks.mH).mH
    if blocks.shape[1] == 0:
        return blocks
    with _alone(blocks):
        squares, axes = torch.linalg.eigh(blocks.mH @ blocks)
    kept = squares > _SAME**2 * squares[-1]
    axes = axes[:, kept]
    nearest: Tensor = blocks @ (axes / squares[kept].sqrt()) @ axes.mH
    return nearest


def _decompose(matrix: Tensor, eps: float) -> Directions:
    """Decompose all of a matrix; singular values may be zero, and directions of them anything."""
    if min(matrix.shape) == 0 or eps < _FINE:
        with _alone(matrix):
            left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        return Directions(left, sizes, right.mH)
    if matrix.shape[0] < matrix.shape[1]:
        found = _decompose(matrix.mH, eps)
        return Directions(found.right, found.sizes, found.left)
    with _alone(matrix):
        squares, axes = torch.linalg.eigh(matrix.mH @ matrix)
    # From the largest on; a square may come out below zero by a rounding.
    sizes, axes = squares.flip(0).clamp(min=0).sqrt(), axes.flip(1)
    left = matrix @ axes / torch.where(sizes > 0, sizes, 1.0)
    return Directions(left, sizes, axes)


def _search(matrix: Tensor, count: int) -> Tensor:
    """Give an orthonormal basis that holds the leading left directions, nearly; [m, l]."""
    rows, columns = matrix.shape
    generator = torch.Generator().manual_seed(rows * 1_000_003 + columns)
    start = torch.randn(columns, count + _MORE, generator=generator, device="cpu")
    # In float32, which takes half the time: a basis that is off by roundings holds as much.
    rough = matrix.to(torch.complex64 if matrix.is_complex() else torch.float32)
    with _alone(matrix):
        block = torch.linalg.qr(rough @ start.to(rough))[0]
        found = [block]
        for _ in range(_ROUNDS):
            block = torch.linalg.qr(rough @ (rough.mH @ block))[0]
            found.append(block)
        basis: Tensor = torch.linalg.qr(torch.cat(found, 1).to(matrix.dtype))[0]
    return basis


def _alone(matrix: Tensor) -> AbstractContextManager[object]:
    return _ON_GPU if matrix.is_cuda else nullcontext()
