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
from conjoin.data_statistics.sums import Moments as ChannelMoments
from conjoin.errors import NonFiniteError
from conjoin.fitting.affine_layers import affine_of, own_map, put_into, with_statistics
from conjoin.fitting.moments import Affine, Moments, Sums, pooled
from conjoin.fitting.rows import is_rectified, rows, thinned

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
    """

    name: str
    kind: str
    before: float
    after: float
    left: str = ""


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

    def rows(self, layer: Layer, part: str = "data") -> Iterator[tuple[Tensor, Tensor]]:
        """Give inputs and targets of a layer: see `conjoin.fitting.rows.rows`."""
        shape = tuple(self.merged[layer.weight].shape) if layer.weight else ()
        runs = self._runs[part] if self._keep else map(self._begin, self._batches[part])
        examples = sum(map(size_of, self._batches[part]))
        for number, (merged, own) in enumerate(runs):
            places = thinned(layer, shape, examples, number)
            yield from rows(layer, merged.value(layer.source), own.value(layer.end), shape, places)

    def moments(self, layer: Layer) -> Moments:
        """Give the moments of a layer's inputs and targets."""
        sums = Sums()
        for inputs, targets in self.rows(layer):
            sums.add(inputs, targets)
        return sums.moments()


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
    largest: int,
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
        largest: bytes that a Gram matrix may have; a layer with a larger one is left.
        progress: called with (layers done, layers in all).
    """
    found = []
    for number, layer in enumerate(layers):
        if layer not in private:
            found.append(fit_layer(layer, parents, weights, ridge, rounds, largest))
        else:
            own = [fit_layer(layer, [one], [1.0], ridge, rounds, largest) for one in parents]
            found.append(_joined(own))
        progress(number + 1, len(layers))
    return found


def fit_layer(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    ridge: float,
    rounds: int,
    largest: int,
) -> FittedLayer:
    """Fit one layer of the merged network of all these parents; see `least_squares`."""
    start = _mean([affine_of(layer, one.own) for one in parents], weights)
    needed = 8 * start.matrix.shape[0] * start.matrix.shape[1] ** 2
    if needed > largest:
        _put_statistics(layer, parents, weights)
        why = f"its Gram matrix needs {needed / 1e6:,.1f} MB, and {largest / 1e6:,.1f} are allowed"
        return FittedLayer(layer.name, layer.kind, float("nan"), float("nan"), why)
    moments = pooled([one.moments(layer) for one in parents], weights)
    if not bool(moments.gram.isfinite().all() & moments.cross.isfinite().all()):
        raise NonFiniteError(
            f"activations at {layer.name!r} are NaN or infinite, in a model or in what is merged "
            "of them; nothing can be fitted to them"
        )
    as_it_was = _as_it_was(layer, parents[0].merged, moments)
    has_offset = layer.bias is not None or layer.norm is not None
    fitted = _solved(moments, start, ridge, rounds, layer, parents, weights, offset=has_offset)
    rectified = is_rectified(layer)
    before, after = (_error(layer, parents, weights, one, rectified) for one in (as_it_was, fitted))
    worse = not after <= before
    for one in parents:
        put_into(layer, one.merged, as_it_was if worse else fitted, moments)
    left = "the fit is worse on held-out data" if worse else ""
    return FittedLayer(layer.name, layer.kind, before, before if worse else after, left)


def _solved(
    moments: Moments,
    start: Affine,
    ridge: float,
    rounds: int,
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    *,
    offset: bool,
) -> Affine:
    about = moments if offset else moments.about_zero()
    factor, floor = _factor(about.gram, ridge)

    def solve(cross: Tensor, targets: Tensor) -> Affine:
        matrix = torch.cholesky_solve(cross + floor[:, None, None] * start.matrix, factor)
        if not offset:
            return Affine(matrix, torch.zeros_like(targets))
        return Affine(matrix, targets - (about.inputs[:, None] @ matrix)[:, 0])

    fitted = solve(about.cross, about.targets)
    for _ in range(rounds if is_rectified(layer) else 0):
        fitted = solve(*_rectified(layer, parents, weights, fitted, about.inputs))
    return fitted


def _factor(gram: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Give the Cholesky factors of second moments with a ridge, and the ridge: [groups]."""
    diagonal = gram.diagonal(dim1=1, dim2=2)
    # Of inputs that are all dead nothing is known, and any ridge at all keeps the start.
    mean = diagonal.mean(-1).clamp(min=1e-200)
    while True:
        floor = ridge * mean
        factor, failed = torch.linalg.cholesky_ex(
            gram + torch.diag_embed(floor[:, None].expand_as(diagonal))
        )
        if not failed.any():
            return factor, floor
        ridge = max(10 * ridge, 1e-12)  # rounding, in a matrix without full rank


def _rectified(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    fitted: Affine,
    center: Tensor,
) -> tuple[Tensor, Tensor]:
    """Give the moments with targets below 0 replaced by what is given now, if below 0 too."""
    cross, means = torch.zeros_like(fitted.matrix), torch.zeros_like(fitted.offset)
    for one, weight in zip(parents, weights, strict=True):
        count, sums = 0, [torch.zeros_like(cross), torch.zeros_like(means)]
        for inputs, targets in one.rows(layer):
            now = fitted(inputs).clamp_(max=0)
            wanted = torch.where(targets > 0, targets, now)
            distance = inputs - center[:, None].to(inputs.device, inputs.dtype)
            sums[0] += (distance.transpose(1, 2) @ wanted).cpu()
            sums[1] += wanted.sum(1).cpu()
            count += inputs.shape[1]
        share = weight / sum(weights) / count
        cross += share * sums[0]
        means += share * sums[1]
    return cross, means


def _put_statistics(layer: Layer, parents: Sequence[Parent], weights: Sequence[float]) -> None:
    """Give the BatchNorm of a layer that is left the statistics of what the merged layer gives."""
    if layer.norm is None:
        return
    own = own_map(layer, parents[0].merged)
    means, variances = [], []
    for one in parents:
        given = ChannelMoments(products=False)
        for inputs, _ in one.rows(layer):
            given.add(own(inputs))
        means.append(given.mean.cpu())
        variances.append(given.variance().cpu())
    shares = [weight / sum(weights) for weight in weights]
    mean = torch.stack([s * m for s, m in zip(shares, means, strict=True)]).sum(0)
    variance = torch.stack(
        [
            s * (within + (m - mean).square())
            for s, within, m in zip(shares, variances, means, strict=True)
        ]
    ).sum(0)
    found = {layer.norm.mean: mean, layer.norm.variance: variance}
    for one in parents:
        for name, value in found.items():
            old = one.merged[name]
            one.merged[name] = value.reshape(old.shape).to(old.device, old.dtype)


def _as_it_was(layer: Layer, merged: dict[str, Tensor], moments: Moments) -> Affine:
    """Give the map of the merged layer as it is, BatchNorm statistics re-estimated."""
    own = own_map(layer, merged)
    if layer.norm is None:
        return own
    mean = own.offset + (moments.inputs[:, None] @ own.matrix)[:, 0]
    variance = (own.matrix * (moments.gram @ own.matrix)).sum(1).clamp(min=0)
    return with_statistics(layer, merged, mean, variance)


def _error(
    layer: Layer,
    parents: Sequence[Parent],
    weights: Sequence[float],
    fitted: Affine,
    rectified: bool,
) -> float:
    """Give the mean squared distance from the targets on held-out data, over their variance."""
    total = scale = 0.0
    for one, weight in zip(parents, weights, strict=True):
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
    )
