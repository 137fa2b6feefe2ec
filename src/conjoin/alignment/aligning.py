"""`align`: a model and a reference -> the order in which the model's units mean the same."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from conjoin.alignment.activations import correlate
from conjoin.alignment.blocks import Block, blocks_of, reordered
from conjoin.alignment.gains import gain_of
from conjoin.alignment.matching import STARTS, Descent, Problem, match
from conjoin.batches import Inputs, inputs_of
from conjoin.checkpoints import Checkpoint, Kind, as_checkpoint, describe_name_difference
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Layout, Permutations, ReorderedCheckpoint, Symmetries, find_symmetries
from conjoin.symmetry.reordering import Orders

__all__ = ["Alignment", "Matched", "align"]

Model = nn.Module | Mapping[str, Tensor]
M = TypeVar("M", bound=nn.Module)


METHODS = {"weights": 0.0, "activations": 1.0, "mixed": 0.5}
"""How much activations count in what is matched."""

LEAST = 1e-3
"""How much weights count where activations decide: for units whose activations are not seen."""


@dataclass(frozen=True)
class Matched:
    """How well the units of a group were matched.

    Args:
        name: of the group.
        size: number of units.
        moved: share of units that are not where they were.
        before: mean cosine between the weights of a unit and those of the reference's unit in its
            place, as the model was; every weight that the unit reads or writes with counts.
        after: the same after alignment.
        mutual: share of units that are each other's best match: near 1 where the match is certain,
            and near 0 where it is hardly better than another.
    """

    name: str
    size: int
    moved: float
    before: float
    after: float
    mutual: float


@dataclass(frozen=True)
class Alignment:
    """The order of a model's units that fits the reference best.

    Args:
        permutations: what the model is to be reordered by.
        groups: how well each was matched.
        objective: how close the weights are: the mean over layers of the cosine between those of
            their weights that may move; 1 for equal models.
        before: the same, as the model was.
        starts: what each start of the search has reached of what it was to match, divided by the
            number of layers; the best one first.
        seconds: that it took.
    """

    permutations: Permutations
    groups: tuple[Matched, ...]
    objective: float
    before: float
    starts: tuple[tuple[str, float], ...]
    seconds: float

    @overload
    def apply(self, model: M) -> M: ...
    @overload
    def apply(self, model: Checkpoint) -> ReorderedCheckpoint: ...  # type: ignore[overload-overlap]
    @overload
    def apply(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, model: Any) -> Any:
        """Give the aligned copy of the model; see `Permutations.apply`."""
        return self.permutations.apply(model)


def align(
    model: Model,
    to: Model,
    example_inputs: Inputs | None = None,
    *,
    data: Iterable[Any] | None = None,
    method: str = "auto",
    symmetries: Symmetries | Layout | None = None,
    starts: Sequence[str] = STARTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Alignment:
    """Find the order of a model's units in which they mean what those of a reference mean.

    The reordered model computes what the model computes. Only then can its weights be combined
    with those of the reference unit by unit.

    Args:
        model: what is to be aligned: a module or named tensors; not changed.
        to: the reference, of the same structure.
        example_inputs: a batch of two or more that the symmetries of the reference are found on.
        data: batches of inputs, or of ``(inputs, labels)``, that activations are compared on.
        method: ``weights`` matches the weights that units read and write with; ``activations``
            matches units that fire alike on `data`, and those that no layer reads by their
            weights; ``mixed`` adds up both. ``auto`` is ``activations`` where there are data.
        symmetries: what `conjoin.find_symmetries` gave for this structure, or the layout of
            permutations that were saved; needed if the reference is no module.
        starts: of the search, each of ``greedy``, ``sequential`` and ``random``.
        seed: of the search.
        progress: called with (starts done, starts in all).

    Raises:
        InputError: neither example inputs nor symmetries, an unknown method or start, or
            activations without data or of what is no module.
        DataError: the data have no batch.
        MismatchError: the models differ in structure, or the symmetries are of another one.
        NonFiniteError: a weight or an activation is NaN or infinite.
        TraceError: the reference cannot be traced.

    Source: Ainsworth et al., Git Re-Basin, ICLR 2023; see `conjoin.alignment.matching`.

    >>> a = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> symmetries = find_symmetries(a, torch.randn(2, 4))
    >>> b = symmetries.sample(torch.Generator().manual_seed(0)).apply(a)    # a shuffled copy
    >>> found = align(b, to=a, symmetries=symmetries)
    >>> round(found.objective, 6), bool(torch.equal(found.apply(b)[0].weight, a[0].weight))
    (1.0, True)
    """
    began = time.perf_counter()
    unknown = [start for start in starts if start not in STARTS]
    if unknown or not starts:
        kinds = ", ".join(dict.fromkeys(STARTS))
        raise InputError(f"starts are one or more of {kinds}, not {list(starts)}")
    share = _share(method, data)
    one, two = _checkpoints(to, model)
    layout = _layout(to, example_inputs, symmetries)
    blocks = blocks_of(layout, one, two, _names(layout, one, two))
    problem = Problem(layout.groups, blocks)
    searched = problem
    if share > 0:
        if not (isinstance(to, nn.Module) and isinstance(model, nn.Module)):
            raise InputError("activations are those of modules that run; give modules, or weights")
        fire = correlate(to, model, layout, (inputs_of(batch) for batch in data or ()))
        left = 1 - share if share < 1 else LEAST
        scaled = [replace(block, scale=block.scale * left) for block in blocks]
        searched = Problem(layout.groups, scaled, fire)
    layers = len({name.rpartition(".")[0] for name in {b.tensor for b in problem.blocks}}) or 1
    found = match(searched, starts=starts, seed=seed, progress=progress)
    best = found[0]
    return Alignment(
        Permutations(layout, best.orders),
        tuple(_matched(problem, name, best) for name in layout.groups),
        problem.objective(best.orders) / layers,
        problem.objective(problem.identity()) / layers,
        tuple((one.start, one.objective / layers) for one in found),
        time.perf_counter() - began,
    )


def _share(method: str, data: Iterable[Any] | None) -> float:
    """Give how much activations count, from 0 to 1."""
    if method == "auto":
        method = "weights" if data is None else "activations"
    if method not in METHODS:
        raise InputError(f"methods are auto, {', '.join(METHODS)}, not {method!r}")
    if METHODS[method] and data is None:
        raise InputError(f"{method!r} compares activations; give data=, batches of inputs")
    return METHODS[method]


def _checkpoints(to: Model, model: Model) -> tuple[Checkpoint, Checkpoint]:
    """See both models as named tensors of one structure."""
    one, two = as_checkpoint(to), as_checkpoint(model)
    difference = describe_name_difference(
        one, two, first_label="the reference", second_label="the model"
    )
    if difference:
        raise MismatchError(f"the model and its reference have different tensors:\n{difference}")
    for name, spec in one.specs.items():
        shape = two.specs[name].shape
        if shape != spec.shape:
            raise MismatchError(
                f"{name!r} has the shape {list(shape)} in the model, and {list(spec.shape)} in its "
                "reference; only networks of one structure can be aligned"
            )
    return one, two


def _layout(to: Model, inputs: Inputs | None, given: Symmetries | Layout | None) -> Layout:
    if isinstance(given, Layout):
        return given
    if given is not None:
        return given.layout
    if not isinstance(to, nn.Module):
        raise InputError(
            "to align named tensors, say what may be reordered: symmetries=, of find_symmetries or "
            "the layout of saved permutations"
        )
    if inputs is None:
        raise InputError(
            "to find what may be reordered, give example_inputs: a batch of two or more of what "
            "the model takes"
        )
    return find_symmetries(to, inputs).layout


def _names(layout: Layout, one: Checkpoint, two: Checkpoint) -> list[str]:
    """Name the weights that something may be reordered in, each tied one once."""
    Permutations(layout, {}).check_names(one)
    names = []
    for name, spec in one.specs.items():
        if name not in layout.tensors or spec.kind != Kind.WEIGHT or spec.alias_of is not None:
            continue
        for model, checkpoint in (("reference", one), ("model", two)):
            if not bool(checkpoint[name].isfinite().all()):
                raise NonFiniteError(f"{name!r} of the {model} has NaN or infinite values")
        names.append(name)
    return names


def _matched(problem: Problem, name: str, best: Descent) -> Matched:
    identity = problem.identity()
    gain, after = _cosines(problem, name, best.orders)
    taken = gain.diagonal(dim1=-2, dim2=-1)
    mutual = (taken >= gain.amax(-1)) & (taken >= gain.amax(-2))
    return Matched(
        name,
        problem.groups[name].size,
        float((best.orders[name] != identity[name]).double().mean()),
        _cosines(problem, name, identity)[1],
        after,
        float(mutual.double().mean()),
    )


def _cosines(problem: Problem, name: str, orders: Orders) -> tuple[Tensor, float]:
    """Give the gains of all pairs of reordered units, and the mean cosine of matched ones."""
    group, identity = problem.groups[name], problem.identity()
    places = [(b, reordered(b, problem.groups, orders)) for b in problem.places[name]]

    def gain(pairs: Iterable[tuple[Block, Tensor, Tensor]]) -> Tensor:
        blocks = [replace(block, reference=one, other=two) for block, one, two in pairs]
        return gain_of(group, blocks, problem.groups, identity)

    both = gain((b, b.reference, other) for b, other in places)
    # The norms of a unit's weights, from the gains of each model with itself.
    norms = gain((b, b.reference, b.reference) for b, _ in places) * gain(
        (b, other, other) for b, other in places
    )
    taken, largest = (t.diagonal(dim1=-2, dim2=-1) for t in (both, norms))
    cosines = taken / largest.sqrt().where(largest > 0, torch.ones_like(largest))
    return both, float(cosines.mean())
