"""`align_rotations`: a model and a reference -> orders and rotations that bring them together."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from conjoin.alignment.blocks import beside, blocks_of
from conjoin.alignment.rotations.finding import find_rotations
from conjoin.alignment.rotations.rotations import Rotatable, Rotations
from conjoin.alignment.rotations.solving import Maps, Problem, solve
from conjoin.alignment.rotations.turning import nearest
from conjoin.batches import Inputs
from conjoin.checkpoints import Checkpoint, Kind, Spec, as_checkpoint, describe_name_difference
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Permutations

__all__ = ["RotationAlignment", "Turned", "align_rotations"]

Model = nn.Module | Mapping[str, Tensor]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Turned:
    """How well a group was matched.

    Args:
        name: of the group.
        size: number of units.
        rotated: whether it was rotated; else it was reordered.
        before: cosine between all weights that the group's units read or write with and those of
            the reference, as the models were.
        after: the same after alignment.
    """

    name: str
    size: int
    rotated: bool
    before: float
    after: float


@dataclass(frozen=True)
class RotationAlignment:
    """The orders and rotations of a model's units that fit the reference best.

    Args:
        rotations: what is to be done to the model. Its norms become those of the reference, so
            that the result can be combined with the reference as it is.
        groups: how well each was matched.
        objective: how close the weights are: the mean over layers of the cosine between those of
            their weights that may move; 1 for equal models.
        before: the same, as the model was.
        seconds: that it took.
    """

    rotations: Rotations
    groups: tuple[Turned, ...]
    objective: float
    before: float
    seconds: float

    @overload
    def apply(self, model: M) -> M: ...
    @overload
    def apply(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, model: Any) -> Any:
        """Give the aligned copy of the model; see `Rotations.apply`."""
        return self.rotations.apply(model)


def align_rotations(
    model: Model,
    to: Model,
    example_inputs: Inputs | None = None,
    *,
    rotatable: Rotatable | None = None,
    progress: Callable[[int], None] = lambda sweep: None,  # noqa: ARG005
) -> RotationAlignment:
    """Find the orders and rotations of a model's units in which they mean what the reference's do.

    Like `conjoin.align`, for networks with units that may be rotated, such as the residual stream
    of a transformer with RMSNorm; see `find_rotations`. The aligned model computes what the model
    computes. Weights of norms do not survive a rotation: they go into the layers that read them,
    and those are then written for the weights of the reference's norms. So the reference stays as
    it is, and an average with it is that of two models that were folded alike.

    Args:
        model: what is to be aligned: a module or named tensors; not changed.
        to: the reference, of the same structure.
        example_inputs: a batch of two or more that `find_rotations` runs the reference on.
        rotatable: what that has given, if it is known; needed if the reference is no module.
        progress: called with the number of sweeps done.

    Raises:
        InputError: neither example inputs nor `rotatable`, or a weight of a norm is zero.
        MismatchError: the models differ in structure.
        NonFiniteError: a weight is NaN or infinite.
        TraceError: the reference cannot be traced.

    Source: Theus et al., Generalized Linear Mode Connectivity for Transformers, NeurIPS 2025.

    >>> a = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    >>> rotatable = find_rotations(a, torch.randn(2, 8))
    >>> b = rotatable.sample(torch.Generator().manual_seed(0)).apply(a)    # rotated at random
    >>> found = align_rotations(b, to=a, rotatable=rotatable)
    >>> bool(torch.allclose(found.apply(b)[0].weight, a[0].weight, atol=1e-5))
    True
    """
    began = time.perf_counter()
    one, two = as_checkpoint(to), as_checkpoint(model)
    difference = describe_name_difference(
        one, two, first_label="the reference", second_label="the model"
    )
    if difference:
        raise MismatchError(f"the model and its reference have different tensors:\n{difference}")
    for name, spec in one.specs.items():
        other = two.specs[name]
        if spec.shape != other.shape or spec.alias_of != other.alias_of:
            raise MismatchError(
                f"{name!r} is {_described(spec)} in the reference, and {_described(other)} in the "
                "model; only networks of one structure can be aligned"
            )
    if rotatable is None:
        if not isinstance(to, nn.Module) or example_inputs is None:
            raise InputError(
                "to find what may be rotated, give a module as the reference and example_inputs, a "
                "batch of two or more; or rotatable=, which find_rotations gave for this structure"
            )
        rotatable = find_rotations(to, example_inputs)
    problem = _problem(rotatable, one, two)
    layers = len({b.tensor.rpartition(".")[0] for b in problem.blocks if b.scale > 0}) or 1
    found = solve(problem, progress)
    identity = problem.identity()
    orders = {n: m for n, m in found.maps.items() if n not in rotatable.keeps_mean}
    matrices = {n: _orthogonal(rotatable, n, found.maps[n]) for n in rotatable.keeps_mean}
    norms = {scale.tensor: one[scale.tensor] for scale in rotatable.scales}
    return RotationAlignment(
        Rotations(rotatable, matrices, Permutations(rotatable.layout, orders), norms),
        tuple(
            Turned(
                name,
                group.size,
                name in rotatable.keeps_mean,
                _cosine(problem, name, identity),
                _cosine(problem, name, found.maps),
            )
            for name, group in rotatable.layout.groups.items()
        ),
        found.objective / layers,
        problem.objective(identity) / layers,
        time.perf_counter() - began,
    )


def _described(spec: Spec) -> str:
    return f"{list(spec.shape)}" + (f", tied to {spec.alias_of!r}," if spec.alias_of else "")


def _problem(rotatable: Rotatable, one: Checkpoint, two: Checkpoint) -> Problem:
    """Fold both models and take them apart."""
    layout = rotatable.layout
    norms = {scale.tensor for scale in rotatable.scales}
    names = [
        name
        for name, spec in one.specs.items()
        if name in layout.tensors and spec.kind == Kind.WEIGHT and spec.alias_of is None
        and name not in norms
    ]  # fmt: skip
    folded = [
        rotatable.fold(_readable(checkpoint, [*names, *norms], label))
        for label, checkpoint in (("reference", one), ("model", two))
    ]
    other = beside(folded[0], folded[1], names)
    return Problem(rotatable, blocks_of(layout, folded[0], other, names))


def _readable(checkpoint: Checkpoint, names: Sequence[str], label: str) -> dict[str, Tensor]:
    """Give float32 for smaller dtypes, so that folding does not round."""
    state = {
        name: tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
        for name, tensor in checkpoint.items()
    }
    for name in names:
        if not bool(state[name].isfinite().all()):
            raise NonFiniteError(f"{name!r} of the {label} has NaN or infinite values")
    return state


def _orthogonal(rotatable: Rotatable, name: str, matrix: Tensor) -> Tensor:
    """Make exact what was found in float32."""
    return nearest(matrix.double(), keeps_mean=rotatable.keeps_mean[name])


def _cosine(problem: Problem, name: str, maps: Maps) -> float:
    blocks = problem.places[name]
    product = problem.objective(maps, [name])
    sizes = [
        sum(b.scale * float(t.double().square().sum()) for b, t in zip(blocks, side, strict=True))
        for side in ([b.reference for b in blocks], [b.other for b in blocks])
    ]
    return product / sqrt(sizes[0] * sizes[1]) if sizes[0] * sizes[1] > 0 else 0.0
