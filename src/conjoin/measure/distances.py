"""How far apart two models are, tensor by tensor and layer by layer.

    l2 = ||a - b||,   relative = ||a - b|| / ||a||,   cosine = <a, b> / (||a|| ||b||)

over the elements of a tensor, or of all tensors of one kind in a layer. Where these formulas have
no value, the conventions are:

    equal tensors        l2 = relative = max_abs = 0 and cosine = 1, zeros and infinities too
    ||a|| = 0, not ||b|| relative = infinity, cosine = NaN
    ||b|| = 0, not ||a|| relative = 1, cosine = NaN
    NaN in either        everything is NaN, also where both have it
    infinity             equal infinities are at distance 0, others at infinity; if the tensors
                         differ, cosine is NaN, and relative too where it is infinity by infinity
    complex numbers      are pairs of real numbers
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor, nn

from conjoin.arguments import as_whole
from conjoin.checkpoints import Checkpoint, Kind, as_checkpoint, describe_name_difference
from conjoin.errors import InputError, MismatchError
from conjoin.measure.chunks import CHUNK, as_reals, chunks

__all__ = [
    "Distance",
    "StructureDifference",
    "by_kind",
    "by_layer",
    "compare_structure",
    "distances",
]

Model = Checkpoint | nn.Module | Mapping[str, Tensor] | str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Distance:
    """The distance between two tensors, or two groups of tensors; see the module for conventions.

    Args:
        name: of the tensor or group.
        kind: what the tensors are for; a group has tensors of one kind.
        l2: Euclidean norm of the difference.
        relative: l2 divided by the norm of the first.
        cosine: cosine of the angle between the two, from -1 to 1.
        max_abs: largest absolute difference of two elements.
        count: elements compared.
        differing: elements that are not equal; NaN equals NaN here.
        norms: Euclidean norms of the first and of the second.
    """

    name: str
    kind: Kind
    l2: float
    relative: float
    cosine: float
    max_abs: float
    count: int
    differing: int
    norms: tuple[float, float]


@dataclass(frozen=True, slots=True)
class StructureDifference:
    """What two models differ in besides numbers; it is false if there is nothing.

    Args:
        only_first, only_second: names that one of the two has, in its order.
        shapes: name -> the two shapes, where they differ.
        dtypes: name -> the two dtypes, where they differ.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: Mapping[str, tuple[torch.dtype, torch.dtype]]

    def __bool__(self) -> bool:
        return bool(self.only_first or self.only_second or self.shapes or self.dtypes)


def compare_structure(first: Model, second: Model) -> StructureDifference:
    """Compare names, shapes and dtypes; no data are read.

    >>> found = compare_structure({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3)})
    >>> found.only_first, found.shapes
    (('b',), {'a': ((2,), (3,))})
    """
    left, right = as_checkpoint(first).specs, as_checkpoint(second).specs
    pairs = {name: (left[name], right[name]) for name in left if name in right}
    return StructureDifference(
        tuple(name for name in left if name not in right),
        tuple(name for name in right if name not in left),
        {name: (a.shape, b.shape) for name, (a, b) in pairs.items() if a.shape != b.shape},
        {name: (a.dtype, b.dtype) for name, (a, b) in pairs.items() if a.dtype != b.dtype},
    )


def distances(
    first: Model, second: Model, *, only_shared: bool = False, chunk: int = CHUNK
) -> list[Distance]:
    """Measure the distance between two models for each tensor, in the order of the first.

    Args:
        first, second: whatever `as_checkpoint` takes. Dtypes may differ: all is done in float64.
        only_shared: pass over tensors that only one model has, or that have two shapes, instead
            of raising; `compare_structure` tells which they are.
        chunk: elements that are read at a time.

    Returns:
        A row per tensor. A tensor that is tied in the same way in both has one row, under its
        first name.

    Raises:
        InputError: `chunk` is no number of elements.
        MismatchError: names or shapes differ.

    >>> rows = distances({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([3.0, 0.0])})
    >>> rows[0].l2, rows[0].relative, rows[0].max_abs
    (4.0, 0.8, 4.0)
    >>> round(rows[0].cosine, 12)
    0.6
    """
    chunk = as_whole(chunk, "chunk", 1)
    a, b = as_checkpoint(first), as_checkpoint(second)
    structure = compare_structure(a, b)
    if not only_shared:
        _check_structure(a, b, structure)
    return [
        _of_tensor(a, b, name, chunk)
        for name, spec in a.specs.items()
        if name in b.specs
        and name not in structure.shapes
        and (spec.alias_of is None or spec.alias_of != b.specs[name].alias_of)
    ]


def by_layer(rows: Iterable[Distance]) -> list[Distance]:
    """Combine the distances of each layer: of tensors whose names differ in the last part only.

    Kinds stay apart, since the counter of a BatchNorm layer (tens of thousands) would hide the
    distance of its weights. Layers are in the order in which they first appear.

    Args:
        rows: of `distances`.

    Raises:
        InputError: they are something else.

    >>> a = {"fc.weight": torch.tensor([3.0]), "fc.bias": torch.tensor([0.0])}
    >>> b = {"fc.weight": torch.tensor([0.0]), "fc.bias": torch.tensor([4.0])}
    >>> [(row.name, row.l2) for row in by_layer(distances(a, b))]
    [('fc', 5.0)]
    """
    groups: dict[tuple[str, Kind], list[Distance]] = {}
    for row in _checked(rows):
        groups.setdefault((row.name.rpartition(".")[0], row.kind), []).append(row)
    return [_combine(name, kind, group) for (name, kind), group in groups.items()]


def by_kind(rows: Iterable[Distance]) -> dict[Kind, Distance]:
    """Combine the distances of all tensors of each kind.

    Args:
        rows: of `distances`.

    Raises:
        InputError: they are something else.

    >>> a, b = {"x": torch.zeros(1), "y": torch.zeros(1)}, {"x": torch.ones(1), "y": torch.ones(1)}
    >>> by_kind(distances(a, b))[Kind.WEIGHT].l2 == 2**0.5
    True
    """
    groups: dict[Kind, list[Distance]] = {}
    for row in _checked(rows):
        groups.setdefault(row.kind, []).append(row)
    return {kind: _combine(f"all {kind}s", kind, group) for kind, group in groups.items()}


def _checked(rows: Iterable[Distance]) -> list[Distance]:
    found = list(rows) if isinstance(rows, Iterable) else []
    if not isinstance(rows, Iterable) or not all(isinstance(row, Distance) for row in found):
        raise InputError(
            f"expected the rows of conjoin.distances(first, second), not {type(rows).__name__}"
        )
    return found


def _check_structure(a: Checkpoint, b: Checkpoint, structure: StructureDifference) -> None:
    names = describe_name_difference(a, b)
    if names:
        raise MismatchError(
            f"{a.source} and {b.source} have different tensors:\n{names}\n"
            "To compare those that both have, pass only_shared=True"
        )
    if structure.shapes:
        name, (left, right) = next(iter(structure.shapes.items()))
        raise MismatchError(
            f"{len(structure.shapes)} tensors of {a.source} and {b.source} differ in shape, first "
            f"{name!r}: {list(left)} and {list(right)}; to compare the others, pass "
            "only_shared=True"
        )


def _of_tensor(a: Checkpoint, b: Checkpoint, name: str, chunk: int) -> Distance:
    kind = a.specs[name].kind
    pieces = zip(chunks(a, name, chunk), chunks(b, name, chunk), strict=True)
    return _combine(name, kind, [_of_values(name, kind, x, y) for x, y in pieces])


def _of_values(name: str, kind: Kind, x: Tensor, y: Tensor) -> Distance:
    if x.is_complex() != y.is_complex():
        x, y = x.to(torch.complex128), y.to(torch.complex128)
    a, b = as_reals(x), as_reals(y)
    difference = torch.where(a == b, 0.0, a - b)  # inf - inf would be NaN
    l2, norms = _norm(difference), (_norm(a), _norm(b))
    cosine = math.nan
    if all(0 < norm < math.inf for norm in norms):
        cosine = float(torch.dot(a / norms[0], b / norms[1]))
    max_abs, differing = float(difference.abs().max()), _count_differing(x, y)
    return Distance(name, kind, l2, math.nan, cosine, max_abs, len(x), differing, norms)


def _combine(name: str, kind: Kind, parts: Sequence[Distance]) -> Distance:
    """Give the distance of all parts together, from theirs: of chunks as of tensors."""
    l2 = _hypot([part.l2 for part in parts])
    first = _hypot([part.norms[0] for part in parts])
    second = _hypot([part.norms[1] for part in parts])
    differing = sum(part.differing for part in parts)
    cosine = math.nan
    if differing == 0 and not math.isnan(l2):
        cosine = 1.0
    elif 0 < first < math.inf and 0 < second < math.inf:
        cosine = _combine_cosines(parts, first, second)
    return Distance(
        name,
        kind,
        l2,
        relative=_ratio(l2, first),
        cosine=cosine,
        max_abs=_maximum([part.max_abs for part in parts]),
        count=sum(part.count for part in parts),
        differing=differing,
        norms=(first, second),
    )


def _combine_cosines(parts: Sequence[Distance], first: float, second: float) -> float:
    # <a, b> is the sum over parts; dividing before multiplying keeps products within range.
    shares = [(part.norms[0] / first) * (part.norms[1] / second) for part in parts]
    pairs = zip(shares, parts, strict=True)
    total = math.fsum(share * part.cosine for share, part in pairs if share != 0)
    return max(-1.0, min(1.0, total))


def _ratio(l2: float, norm: float) -> float:
    if norm == 0:
        return l2 if l2 == 0 or math.isnan(l2) else math.inf
    return 0.0 if l2 == 0 and math.isinf(norm) else l2 / norm


def _norm(values: Tensor) -> float:
    # Squares of very large or small float64 values would leave the range of float64.
    scale = float(values.abs().max())
    if scale == 0 or not math.isfinite(scale):
        return scale
    return scale * float(torch.linalg.vector_norm(values / scale))


def _hypot(values: Sequence[float]) -> float:
    if any(map(math.isnan, values)):
        return math.nan  # math.hypot would let infinity win
    return math.hypot(*values)


def _maximum(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


def _count_differing(x: Tensor, y: Tensor) -> int:
    exact = x.is_floating_point() or x.is_complex() or x.dtype != y.dtype
    if not exact:
        return int((x != y).sum())  # integers above 2**53 are not exact in float64
    wide = torch.promote_types(_wide(x), _wide(y))
    a, b = x.to(wide), y.to(wide)
    return int(((a != b) & ~(a.isnan() & b.isnan())).sum())


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64
