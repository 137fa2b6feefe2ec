"""Layer after layer: the weights with which one network does what each of its parents does.

In the order of execution, each layer of the merged network is fitted so that, on the inputs that
the merged network itself gives it, it comes closest to what each parent's layer gives on that
parent's own data:

    min over W, b of  sum_k share_k mean ||W x_k + b - y_k||^2  +  ridge * tr(G) / d * ||W - W_0||^2

with x_k the merged network's and y_k parent k's activations on the data of k, G the second moments
of all x, d their number, and W_0 the mean of the parents' weights, BatchNorm included. It is linear
least squares, solved exactly, and later layers make up for what earlier ones could not do.

Where a ReLU follows, only what is above 0 matters. Then a target below 0 is met by anything below
0: it is replaced by what the layer gives now, if that is below 0 too, and the fit is repeated with
the same factor of G. No such round makes the error larger that counts, for a target below 0, what
is above 0 alone.

With BatchNorm of each parent's own, all share W, and each has a scale and a shift of its own for
each channel: see `conjoin.fitting.own_norms`.

Source: ours. Fitting on the merged network's own inputs is as in layer-wise compression (He et al.,
Channel Pruning, ICCV 2017); fitting to parents, as in PLeaS (Nasery et al., 2024) and RegMean (Jin
et al., ICLR 2023), both of which use the parents' inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from conjoin.batches import Inputs, size_of
from conjoin.data_statistics.execution import Execution, Program
from conjoin.data_statistics.layers import Layer
from conjoin.fitting.affine_layers import (
    affine_of,
    norm_can_scale,
    note_on,
    own_map,
    put_into,
    why_not,
    with_statistics,
)
from conjoin.fitting.moments import Affine, Scaled
from conjoin.fitting.own_norms import solve_with_own_norms
from conjoin.fitting.problem import Part, Problem, Spread
from conjoin.fitting.rows import fewest_rows, is_rectified, rows, thinned
from conjoin.fitting.solving import solve

__all__ = ["FittedLayer", "Parent", "fit_layer", "least_squares", "passed_ends"]


@dataclass(frozen=True)
class FittedLayer:
    """What was done with a layer.

    Args:
        name: of the layer.
        kind: ``linear``, ``convolution`` or ``scale``.
        before: mean squared distance from the parents' outputs with the mean of their weights, on
            held-out data, in units of the outputs' variance; BatchNorm statistics re-estimated.
        after: the same with the fitted weights.
        left: why the mean of the parents' weights was kept; "" if it was not.
        solved: by what, see `conjoin.fitting.solving.solve`: ``features``, ``rows``, or
            ``iterations`` with their number.
        note: what else has to be known, such as that statistics of a BatchNorm are not those of
            activations; "" if nothing.
    """

    name: str
    kind: str
    before: float
    after: float
    left: str = ""
    solved: str = "features"
    note: str = ""


class Parent:
    """A parent and the merged network, on their way through the parent's data.

    Args:
        program: of both.
        own: tensors of the parent, aligned.
        merged: tensors of the merged network, changed while it is fitted.
        data: batches of inputs.
        held: batches that nothing is fitted on.
        keep: whether activations stay in memory from layer to layer; without, every layer is
            reached from the inputs anew.
        passed: nodes that are asked for after later ones; see `passed_ends`.
    """

    def __init__(
        self,
        program: Program,
        own: dict[str, Tensor],
        merged: dict[str, Tensor],
        data: Sequence[Inputs],
        held: Sequence[Inputs],
        *,
        keep: bool,
        passed: Sequence[Node] = (),
    ) -> None:
        self.own, self.merged = own, merged
        self._passed = passed
        self._program, self._keep = program, keep
        self._batches = {"data": data, "held": held}
        self._runs = {name: [self._begin(batch) for batch in found] if keep else []
                      for name, found in self._batches.items()}  # fmt: skip

    def _begin(self, batch: Inputs) -> tuple[Execution, Execution]:
        merged = Execution(self._program, self.merged, batch)
        return merged, Execution(self._program, self.own, batch, keep=self._passed)

    def fewest_rows(self, layer: Layer) -> int:
        """Give a number of rows that a layer is fitted to at least."""
        shape = tuple(self.merged[layer.weight].shape) if layer.weight else ()
        return fewest_rows(layer, shape, sum(map(size_of, self._batches["data"])))

    def rows(self, layer: Layer, part: str = "data") -> Iterator[tuple[Tensor, Tensor]]:
        """Give inputs and targets of a layer: see `conjoin.fitting.rows.rows`."""
        shape = tuple(self.merged[layer.weight].shape) if layer.weight else ()
        runs = self._runs[part] if self._keep else map(self._begin, self._batches[part])
        examples = sum(map(size_of, self._batches[part]))
        for number, (merged, own) in enumerate(runs):
            places = thinned(layer, shape, examples, number)
            yield from rows(layer, merged.value(layer.source), own.value(layer.end), shape, places)


def passed_ends(program: Program, layers: Sequence[Layer]) -> list[Node]:
    """Give the ends of layers that stand before the end of an earlier layer.

    Such as in ``a = conv_a(x); b = norm_b(conv_b(x)); return norm_a(a) + b``.
    """
    found, furthest = [], -1
    for layer in layers:
        at = program.place[layer.end]
        if at < furthest:
            found.append(layer.end)
        furthest = max(furthest, at)
    return found


def least_squares(
    layers: Sequence[Layer],
    parents: Sequence[Parent],
    *,
    weights: Sequence[float],
    ridge: float,
    rounds: int,
    private: Sequence[Layer] = (),
    own_norms: bool = False,
    memory: int,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> list[FittedLayer]:
    """Fit all layers, in the tensors of the parents' merged networks.

    Args:
        layers: in the order of execution.
        parents: with the merged network of each: equal tensors at first.
        weights: how much each parent counts.
        ridge: towards the mean of the parents, relative to the mean second moment.
        rounds: of rectified fits, where a ReLU follows.
        private: of the layers: fitted for each parent alone.
        own_norms: whether each parent has its own BatchNorm everywhere.
        memory: bytes that a Gram matrix may have; see `conjoin.fitting.solving.solve`.
        progress: called with (layers done, layers in all).
    """
    found = []
    for number, layer in enumerate(layers):
        has_norm = own_norms and norm_can_scale(layer)
        if layer in private or (has_norm and layer.kind == "scale"):
            own = [fit_layer(layer, [one], [1.0], ridge, rounds, memory) for one in parents]
            found.append(_joined(own))
        else:
            fit = _fit_with_own_norms if has_norm else fit_layer
            found.append(fit(layer, parents, weights, ridge, rounds, memory))
        progress(number + 1, len(layers))
    return found


def fit_layer(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    ridge: float,
    rounds: int,
    memory: int,
) -> FittedLayer:
    """Fit one layer of the merged network of all these parents; see `least_squares`."""
    solution = solve(_problem(layer, parents, weights, ridge, rounds, memory), memory)
    as_it_was = _as_it_was(layer, parents[0].merged, solution.inputs)
    fitted = solution.fitted
    maps = (as_it_was.affine, fitted)
    before, after = (_error(layer, parents, weights, [one] * len(parents)) for one in maps)
    left = _why_left(before, after) or why_not(layer, fitted)
    best = as_it_was if left else _unscaled(fitted)
    for one in parents:
        put_into(layer, one.merged, best, solution.inputs)
    return _reported(layer, before, after, left, solution.solved)


def _fit_with_own_norms(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    ridge: float,
    rounds: int,
    memory: int,
) -> FittedLayer:
    """Fit one layer that has a BatchNorm for each parent."""
    problem = _problem(layer, parents, weights, ridge, rounds, memory)
    fitted, spreads, solved = solve_with_own_norms(problem, memory)
    as_it_was = [
        _as_it_was(layer, one.merged, inputs) for one, inputs in zip(parents, spreads, strict=True)
    ]
    before, after = (
        _error(layer, parents, weights, [one.affine for one in maps])
        for maps in (as_it_was, fitted)
    )
    left = _why_left(before, after)
    best = as_it_was if left else fitted
    for one, found, inputs in zip(parents, best, spreads, strict=True):
        put_into(layer, one.merged, found, inputs)
    return _reported(layer, before, after, left, solved)


def _problem(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    ridge: float,
    rounds: int,
    memory: int,
) -> Problem:
    def stream() -> Iterator[Part]:
        for number, one in enumerate(parents):
            for inputs, targets in one.rows(layer):
                yield number, inputs, targets

    return Problem(
        layer.name,
        _Kept(stream, memory / 4),
        weights,
        _mean([affine_of(layer, one.own) for one in parents], weights),
        ridge,
        offset=layer.bias is not None or layer.norm is not None,
        rounds=rounds if is_rectified(layer) else 0,
        fewest=sum(one.fewest_rows(layer) for one in parents),
    )


class _Kept:
    """Rows that are made once and kept, if they take no more than some bytes; else anew each time.

    They are gone through several times, and making those of a convolution takes half of all time.
    """

    def __init__(self, make: Callable[[], Iterator[Part]], most: float) -> None:
        self._make, self._most = make, most
        self._parts: list[Part] | None = None

    def __call__(self) -> Iterator[Part]:
        if self._parts is not None:
            yield from self._parts
            return
        parts, taken = list[Part](), 0
        for part in self._make():
            taken += sum(one.numel() * one.element_size() for one in part[1:])
            parts.append(part)
            if taken > self._most:
                parts.clear()
            yield part
        if taken <= self._most:
            self._parts = parts


def _why_left(before: float, after: float) -> str:
    return "" if after <= before else "the fit is worse on held-out data"


def _reported(layer: Layer, before: float, after: float, left: str, solved: str) -> FittedLayer:
    note = "" if left else note_on(layer)
    after = before if left else after
    return FittedLayer(layer.name, layer.kind, before, after, left, solved, note)


def _as_it_was(layer: Layer, merged: dict[str, Tensor], inputs: Spread) -> Scaled:
    """Give the map of the merged layer as it is, BatchNorm statistics re-estimated."""
    own = own_map(layer, merged)
    if layer.norm is None:
        return _unscaled(own)
    mean = own.offset + (inputs.inputs[:, None] @ own.matrix)[:, 0]
    return with_statistics(layer, merged, mean, inputs.variance(own.matrix))


def _unscaled(found: Affine) -> Scaled:
    return Scaled(found.matrix, torch.ones_like(found.offset), found.offset)


def _error(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    maps: Sequence[Affine],
) -> float:
    """Give the mean squared distance from the targets on held-out data, over their variance."""
    rectified = is_rectified(layer)
    total = scale = 0.0
    for one, weight, fitted in zip(parents, weights, maps, strict=True):
        distance = variance = 0.0
        for inputs, targets in one.rows(layer, "held"):
            given, wanted = fitted(inputs), targets
            if rectified:
                given, wanted = given.clamp(min=0), wanted.clamp(min=0)
            distance += float((given - wanted).square().mean(dtype=torch.float64))
            variance += float(wanted.var(1, correction=0).mean(dtype=torch.float64))
        total, scale = total + weight * distance, scale + weight * variance
    return total / scale if scale > 0 else total


def _mean(maps: Sequence[Affine], weights: Sequence[float]) -> Affine:
    shares = [weight / sum(weights) for weight in weights]
    found = list(zip(maps, shares, strict=True))
    return Affine(
        torch.stack([share * one.matrix for one, share in found]).sum(0),
        torch.stack([share * one.offset for one, share in found]).sum(0),
    )


def _joined(own: Sequence[FittedLayer]) -> FittedLayer:
    """Say in one what was done with a layer that each parent has its own of."""
    first, count = own[0], len(own)
    return FittedLayer(
        first.name,
        first.kind,
        sum(one.before for one in own) / count,
        sum(one.after for one in own) / count,
        next((one.left for one in own if one.left), ""),
        next((one.solved for one in own if one.solved != first.solved), first.solved),
        next((one.note for one in own if one.note), ""),
    )
