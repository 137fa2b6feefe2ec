"""`align`: a model and a reference -> the order in which the model's units mean the same."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, overload

from torch import Tensor, nn

from conjoin.alignment.activations import Correlations, correlate
from conjoin.alignment.blocks import Block, beside, blocks_of
from conjoin.alignment.by_outputs import nearest_first
from conjoin.alignment.learned import learn
from conjoin.alignment.matched import Alignment, Matched, cosines_of, mutual_of
from conjoin.alignment.matching import CERTAIN, STARTS, weighed
from conjoin.alignment.together import Models, Together, match_together
from conjoin.arguments import as_whole
from conjoin.batches import Inputs, batches, inputs_of, size_of, with_example
from conjoin.checkpoints import Checkpoint, Kind, as_checkpoint, describe_name_difference
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Layout, Permutations, Symmetries, find_symmetries
from conjoin.symmetry.reordering import part_size

__all__ = ["Alignment", "Matched", "align"]

Model = nn.Module | Mapping[str, Tensor]

METHODS = {"weights": 0.0, "activations": 1.0, "mixed": 0.5, "learned": 1.0}
"""How much activations count in what is matched."""

FEW = 1000
"""Examples on which the outputs of several models and those of their mean are compared."""

LEAST = 1e-3
"""How much weights count where activations decide: for units whose activations are not seen."""


@overload
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
    progress: Callable[[int, int], None] = ...,
) -> Alignment: ...
@overload
def align(
    model: Sequence[Model],
    to: None = None,
    example_inputs: Inputs | None = None,
    *,
    data: Iterable[Any] | None = None,
    method: str = "auto",
    symmetries: Symmetries | Layout | None = None,
    starts: Sequence[str] = STARTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = ...,
) -> list[Alignment]: ...
def align(
    model: Model | Sequence[Model],
    to: Model | None = None,
    example_inputs: Inputs | None = None,
    *,
    data: Iterable[Any] | None = None,
    method: str = "auto",
    symmetries: Symmetries | Layout | None = None,
    starts: Sequence[str] = STARTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Alignment | list[Alignment]:
    """Find the order of a model's units in which they mean what those of a reference mean.

    The reordered model computes what the model computes. Only then can its weights be combined
    with those of the reference unit by unit.

    A list of models is aligned to their common centre: each gets one order, so that the sum over
    all pairs is best. What two orders say of two models never contradicts a third. Of all ways to
    number the units that they have in common, it takes that of the first model, which keeps its
    order; none is a reference. ``align([a, b])`` gives ``align(b, to=a)`` as its second.

    Args:
        model: what is to be aligned: a module or named tensors, or a list of two or more of them;
            not changed.
        to: the reference, of the same structure; none for a list.
        example_inputs: a batch of two or more that the symmetries of the reference, or of the first
            model of a list, are found on; by default two examples of `data`.
        data: batches of inputs or of ``(inputs, labels)``, or such a pair, that activations are
            compared on; gone through once for each pair of models. Of three or more, the first
            1,000 examples choose among orders by how near the mean's outputs come to the models'.
        method: ``weights`` matches the weights that units read and write with; ``activations``
            matches units that fire alike on `data`, and those that no layer reads by their
            weights; ``mixed`` adds up both. ``learned`` begins with ``activations`` and goes on
            with `conjoin.alignment.learn` on the same data, for two models; it takes longest.
            ``auto`` is ``activations`` where there are data.
        symmetries: what `conjoin.find_symmetries` gave for this structure, or the layout of
            permutations that were saved; needed if the reference is no module.
        starts: of the search, each of ``greedy``, ``sequential`` and ``random``; further ones are
            left out where two have led to one end.
        seed: of the search.
        progress: called with (steps done, steps in all), of the search; then, if orders are
            learned, of that.

    Returns:
        an alignment, or a list of them in the order of the models.

    Raises:
        InputError: no example inputs, symmetries or data, an unknown method or start, activations
            without data or of what is no module, not two or more models, or more than two to learn.
        DataError: the data have no batch, or one alone to learn from.
        MismatchError: the models differ in structure, or the symmetries are of another one.
        NonFiniteError: a weight or an activation is NaN or infinite.
        TraceError: the reference cannot be traced.

    Source: Ainsworth et al., Git Re-Basin, ICLR 2023, and Crisostomi et al., C2M3, NeurIPS 2024;
    see `conjoin.alignment.matching` and `conjoin.alignment.together`.

    >>> import torch
    >>> a = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> symmetries = find_symmetries(a, torch.randn(2, 4))
    >>> b, c = (symmetries.sample(torch.Generator().manual_seed(n)).apply(a) for n in range(2))
    >>> found = align(b, to=a, symmetries=symmetries)     # b and c are shuffled copies of a
    >>> round(found.objective, 6), bool(torch.equal(found.apply(b)[0].weight, a[0].weight))
    (1.0, True)
    >>> [first, second, third] = align([a, b, c], symmetries=symmetries)
    >>> first.permutations.is_identity(), bool(torch.equal(third.apply(c)[0].weight, a[0].weight))
    (True, True)
    """
    began = time.perf_counter()
    seed = as_whole(seed, "seed")
    given_starts = [starts] if isinstance(starts, str) else starts
    starts = list(given_starts) if isinstance(given_starts, Iterable) else []
    if not starts or any(start not in STARTS for start in starts):
        kinds = ", ".join(dict.fromkeys(STARTS))
        raise InputError(f"starts are one or more of {kinds}, not {given_starts!r:.200}")
    if data is not None:
        data = list(batches(data, 250)) if isinstance(data, tuple) else batches(data, 250)
    share = _share(method, data)
    given = _given(model, to)
    several = isinstance(model, list | tuple)
    if method == "learned":
        if len(given) > 2:
            raise InputError(f"orders are learned of two models, and {len(given)} are given")
        data = None if data is None else list(data)  # gone through more than once
    labels = (
        [f"model {n}" for n in range(len(given))] if several else ["the reference", "the model"]
    )
    checkpoints = _checkpoints(given, labels)
    if example_inputs is None and symmetries is None and data is not None:
        example_inputs, data = with_example(data)
    layout = _layout(given[0], example_inputs, symmetries)
    names = _names(layout, checkpoints, labels)
    beside_first = (beside(checkpoints[0], one, names) for one in checkpoints)
    blocks = [blocks_of(layout, one, one, names) for one in beside_first]
    fire = _correlations(given, layout, data) if share > 0 and data is not None else {}
    left = 1 - share if share < 1 else LEAST
    found = _searched(layout, blocks, fire, left, starts, seed, progress)
    if len(given) > 2 and fire and data is not None:
        found = nearest_first(_modules(given), found, _first_of(data))
    if method == "learned" and data is not None:
        search = Models(layout, _scaled(blocks, left), fire)
        found = _learned(_modules(given), search, found, data, seed, progress)
    alike = Models(layout, blocks, {})
    numbers = range(0 if several else 1, len(given))
    reports = [_reported(alike, number, found, began) for number in numbers]
    return reports if several else reports[0]


def _searched(
    layout: Layout,
    blocks: Sequence[Sequence[Block]],
    fire: Mapping[tuple[int, int], Correlations],
    left: float,
    starts: Sequence[str],
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Together]:
    """Search for the best orders; by weights alone, with layers that count in two ways.

    First each layer counts by how little of its cosine is chance, which finds what is left of a
    common origin even if little is. Independent networks have none. Then the order of wide layers
    is hardly certain, and it is early, small ones that matter: all layers count alike.
    """
    begun = 0

    def in_halves(done: int, steps: int) -> None:
        progress(begun + done, 2 * steps)

    if not fire:
        models = Models(layout, [weighed(each) for each in blocks], {})
        found = match_together(models, starts=starts, seed=seed, progress=in_halves)
        begun = len(starts) * len(list(combinations(blocks, 2)))
        begun += len(blocks) if len(blocks) > 2 else 0
        if found[0].certain >= CERTAIN:
            progress(2 * begun, 2 * begun)
            return found
    return match_together(
        Models(layout, _scaled(blocks, left), fire),
        starts=starts,
        pairs=bool(fire),
        seed=seed,
        progress=in_halves if begun else progress,
    )


def _scaled(blocks: Sequence[Sequence[Block]], left: float) -> list[list[Block]]:
    """Let weights count less."""
    return [[replace(block, scale=left * block.scale) for block in each] for each in blocks]


def _learned(
    models: Sequence[nn.Module],
    search: Models,
    found: list[Together],
    data: Iterable[Any],
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Together]:
    """Put orders that are learned before those that they began with, if they are better."""
    first, second = found[0].orders
    result = learn(
        models[0],
        models[1],
        search.layout,
        second,
        data,
        seed=seed,
        progress=progress,
    )
    if result.kept:
        return found
    objective = search.pair(0, 1, first).objective(result.permutations.orders)
    better = replace(
        found[0], start="learned", orders=(first, result.permutations), objective=objective
    )
    return [better, *found]


def _given(model: Model | Sequence[Model], to: Model | None) -> list[Model]:
    """Give all models, the one that keeps its order first."""
    if not isinstance(model, list | tuple):
        if to is None:
            raise InputError("align needs a reference, to=, or a list of two or more models")
        return [to, model]  # type: ignore[list-item]
    if to is not None:
        raise InputError(
            "a list of models is aligned to their common centre; leave out to=, or align each "
            "model to the reference on its own"
        )
    if len(model) < 2:
        raise InputError(f"align takes a list of two or more models, not of {len(model)}")
    return list(model)


def _share(method: str, data: Iterable[Any] | None) -> float:
    """Give how much activations count, from 0 to 1."""
    if method == "auto":
        method = "weights" if data is None else "activations"
    if method not in METHODS:
        raise InputError(f"methods are auto, {', '.join(METHODS)}, not {method!r}")
    if METHODS[method] and data is None:
        raise InputError(f"{method!r} compares activations; give data=, batches of inputs")
    return METHODS[method]


def _checkpoints(models: Sequence[Model], labels: Sequence[str]) -> list[Checkpoint]:
    """See all models as named tensors of one structure."""
    one, *others = found = [as_checkpoint(model) for model in models]
    for label, two in zip(labels[1:], others, strict=True):
        difference = describe_name_difference(one, two, first_label=labels[0], second_label=label)
        if difference:
            raise MismatchError(f"{label} and {labels[0]} have different tensors:\n{difference}")
        for name, spec in one.specs.items():
            shape = two.specs[name].shape
            if shape != spec.shape:
                raise MismatchError(
                    f"{name!r} has the shape {list(shape)} in {label}, and {list(spec.shape)} in "
                    f"{labels[0]}; only networks of one structure can be aligned"
                )
    return found


def _layout(to: Model, inputs: Inputs | None, given: Symmetries | Layout | None) -> Layout:
    if isinstance(given, Layout):
        return given
    if isinstance(given, Symmetries | Permutations):
        return given.layout
    if given is not None:
        raise InputError(f"symmetries= is what find_symmetries gave, not {given!r:.200}")
    if not isinstance(to, nn.Module):
        raise InputError(
            "to align named tensors, say what may be reordered: symmetries=, of find_symmetries or "
            "the layout of saved permutations"
        )
    if inputs is None:
        raise InputError(
            "to find what may be reordered, give example_inputs (a batch of two or more), or data"
        )
    return find_symmetries(to, inputs).layout


def _names(layout: Layout, checkpoints: Sequence[Checkpoint], labels: Sequence[str]) -> list[str]:
    """Name the weights that something may be reordered in, each tied one once."""
    first = checkpoints[0]
    Permutations(layout, {}).check_names(first)
    names = []
    for name, spec in first.specs.items():
        axes = [part_size(part) for part in layout.tensors.get(name, ())]
        if name in layout.tensors and axes != list(spec.shape):
            found = f"{list(spec.shape)}, and {axes} in the network of the symmetries"
            raise MismatchError(f"{name!r} has the shape {found}; find them in one of these models")
        if name not in layout.tensors or spec.kind != Kind.WEIGHT or spec.alias_of is not None:
            continue
        for label, checkpoint in zip(labels, checkpoints, strict=True):
            if not bool(checkpoint[name].isfinite().all()):
                raise NonFiniteError(f"{name!r} of {label} has NaN or infinite values")
        names.append(name)
    return names


def _modules(models: Sequence[Model]) -> list[nn.Module]:
    return [model for model in models if isinstance(model, nn.Module)]


def _correlations(
    models: Sequence[Model], layout: Layout, data: Iterable[Any]
) -> dict[tuple[int, int], Correlations]:
    """Correlate the units of all pairs, one pair at a time: memory grows with pairs, not data."""
    modules = _modules(models)
    if len(modules) < len(models):
        raise InputError("activations are those of modules that run; give modules, or weights")
    if len(modules) > 2 and iter(data) is data:
        raise InputError(
            "the data are gone through once for each pair of models: give a list or a loader, not "
            "an iterator"
        )
    return {
        (one, two): correlate(
            modules[one], modules[two], layout, (inputs_of(batch) for batch in data)
        )
        for one, two in combinations(range(len(modules)), 2)
    }


def _first_of(data: Iterable[Any]) -> list[Inputs]:
    """Give the inputs of the first batches, of `FEW` examples or a few more."""
    found: list[Inputs] = []
    count = 0
    for batch in data:
        found.append(inputs_of(batch))
        count += size_of(found[-1])
        if count >= FEW:
            break
    return found


def _reported(models: Models, number: int, found: Sequence[Together], began: float) -> Alignment:
    """Say how well a model was matched with the others, all layers counting alike."""
    best, layout = found[0], models.layout
    orders, still = best.orders, Permutations(layout, {})
    own = orders[number].orders
    # A layer that is zero in a model has no cosine.
    layers = min(len({b.tensor.rpartition(".")[0] for b in e if b.scale}) for e in models.blocks)
    layers = max(layers, 1)
    others = [n for n in range(len(orders)) if n != number]
    before, after = 0.0, 0.0
    cosines = {name: [0.0, 0.0] for name in layout.groups}
    for other in others:
        as_it_was = models.pair(other, number)
        aligned = models.pair(other, number, orders[other])
        before += as_it_was.objective(still.orders) / (len(others) * layers)
        after += aligned.objective(own) / (len(others) * layers)
        for at, (problem, order) in enumerate([(as_it_was, still.orders), (aligned, own)]):
            for name, cosine in cosines_of(problem, order).items():
                cosines[name][at] += cosine / len(others)
    mutual = mutual_of(models.among(number, orders), own)
    pairs = len(orders) * (len(orders) - 1) / 2
    return Alignment(
        orders[number],
        tuple(
            Matched(
                name,
                group.size,
                float((own[name] != still.orders[name]).double().mean()),
                cosines[name][0],
                cosines[name][1],
                mutual[name],
            )
            for name, group in layout.groups.items()
        ),
        after,
        before,
        tuple((end.start, end.objective / (pairs * layers)) for end in found),
        time.perf_counter() - began,
    )
