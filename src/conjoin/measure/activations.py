"""What merging does to activations: whether their variance is kept, and whether units agree.

Averaging two networks whose units mean different things averages activations that are hardly
correlated, and half of their variance is gone: after several layers, nothing is left. Statistics
are of what reaches the nonlinearity: the output of every layer with a weight of two dimensions or
more, or of the normalization right behind it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from conjoin.arguments import as_mapping, as_module, check_weights
from conjoin.batches import Inputs, map_inputs, run_model, size_of
from conjoin.data_statistics.watching import without_fast_path
from conjoin.errors import DataError, InputError, MismatchError
from conjoin.evaluation import evaluating
from conjoin.records import Record, Split

__all__ = ["activation_statistics"]

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_WEIGHTED = (_ConvNd, nn.Linear, nn.MultiheadAttention)
_UNITS_SECOND = (_ConvNd, _NormBase, nn.GroupNorm)
"""Modules whose outputs are [B, units, ...]; all others give [B, ..., units]."""


def activation_statistics(
    parents: Mapping[str, nn.Module],
    merged: nn.Module,
    inputs: Iterable[Inputs],
    *,
    task: str,
    seed: int = 0,
    split: Split = "test",
    name: str = "activations",
    how: Mapping[str, Any] | None = None,
    correlation: bool = True,
    on_done: Callable[[int], None] | None = None,
) -> list[Record]:
    """Compare the activations of a merged network with its parents', layer by layer.

        activation variance     mean_u var(merged_u) / mean_u mean_p var(parent p_u)
        activation correlation  mean_u corr(first parent_u, second parent_u)

    over the units u of a layer, where variances and correlations are over examples and positions.
    A variance of 1 is kept, and near 0 is collapse; NaN if the parents have none. The correlation
    is there for exactly two parents; units that are constant in one of them are left out, and if
    all are, it is NaN.

    Layers are convolutions, linear layers, attention, and whatever else is a leaf and has a
    parameter of two dimensions or more; where a normalization is called on the very output of
    one, its output counts instead. Units are dimension 1 of convolutions, BatchNorm, InstanceNorm
    and GroupNorm, and the last dimension of all else. Of several outputs, the first counts;
    outputs that are no floating-point numbers, and layers that are not reached, have no record. A
    layer that is called several times adds up. Networks run in eval mode on their own device;
    modes are put back. Sums are in float64, and one batch is in memory.

    Args:
        parents: name -> network, with the layers of the merged one.
        merged: the network made from them.
        inputs: batches, without targets; see `conjoin.batches.first_examples`.
        task: the data set they are from; recorded.
        seed: of the run; recorded.
        split: the part of the data set; recorded.
        name: recorded as the model.
        how: recorded besides ``view``, ``layer`` and ``index``; its ``reestimated``, which says
            nothing of parents, with the variance only.
        correlation: whether to give correlations; they do not depend on the merged network.
        on_done: called with the number of examples just done.

    Returns:
        For each layer, in the order of calls: the variance, and the correlation of two parents.

    Raises:
        InputError: no parents by name, or what is no network or has no weights yet.
        DataError: fewer than two examples, or what the merged network does not take.
        MismatchError: a parent lacks a layer of the merged network, or has other units in it.

    Source: REPAIR (Jordan et al., ICLR 2023, arXiv:2211.08403).

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> records = activation_statistics({"a": net, "b": net}, net, [torch.eye(2)], task="eye")
    >>> [(r.how["layer"], r.metric, round(r.value, 6)) for r in records[:2]]
    [('0', 'activation variance', 1.0), ('0', 'activation correlation', 1.0)]
    """
    if not as_mapping(parents, "parents", '{"a": a, "b": b}'):
        raise InputError("statistics of activations need at least one parent")
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    count = sum(map(size_of, inputs))
    if count == 0:
        raise DataError("the data gave no examples; a loader can be used up: pass a list")
    if count == 1:
        raise DataError("a variance needs two examples or more; the data gave one")
    networks = [as_module(network, "each network") for network in (merged, *parents.values())]
    for who, network in zip(("the merged network", *parents), networks, strict=True):
        check_weights(network, who)
    with evaluating(networks), torch.no_grad(), without_fast_path():
        observed = _observed(merged, next(part for part in inputs if size_of(part)))
        found = [_located(net, who, observed) for who, net in [("", merged), *parents.items()]]
        moments = [{layer: _Moments() for layer in observed} for _ in networks]
        pairs = {layer: _Moments() for layer in observed}
        for batch in (part for part in inputs if size_of(part)):
            _add_variances(networks[:1], found[:1], moments[:1], batch)
            if len(parents) == 2 and correlation:
                _add_pair(networks[1:], found[1:], moments[1:], pairs, batch)
            else:
                _add_variances(networks[1:], found[1:], moments[1:], batch)
            if on_done is not None:
                on_done(size_of(batch))
    made = {"view": "activations", **(how or {})}
    records = []
    for index, layer in enumerate(observed):
        of_merged, *of_parents = [of_network[layer] for of_network in moments]
        if not all(one.count for one in (of_merged, *of_parents)):
            continue
        where = {**made, "layer": layer or "(root)", "index": index}
        ratio = _variance_ratio(layer, of_merged, of_parents)
        records.append(Record(name, task, split, seed, "activation variance", ratio, count, where))
        if len(parents) == 2 and correlation:
            where = {key: value for key, value in where.items() if key != "reestimated"}
            value = _correlation(of_parents[0], of_parents[1], pairs[layer])
            metric = "activation correlation"
            records.append(Record(name, task, split, seed, metric, value, count, where))
    return records


@dataclass
class _Moments:
    """Summed products of deviations [units] of two series, added block by block.

    Blocks are joined by their means (Chan, Golub and LeVeque, 1983): sums of plain products would
    cancel where a mean is large. With one series twice, the products are squares.
    """

    count: int = 0
    mean_x: Tensor = field(default_factory=lambda: torch.zeros(()))
    mean_y: Tensor = field(default_factory=lambda: torch.zeros(()))
    products: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add paired series, float64 [n, units]."""
        if not len(x):
            return
        mean_x = x.mean(0)
        mean_y = mean_x if y is x else y.mean(0)
        deviations = x - mean_x
        products = (deviations * (deviations if y is x else y - mean_y)).sum(0)
        if self.count:
            new = len(x) / (self.count + len(x))
            dx, dy = mean_x - self.mean_x, mean_y - self.mean_y
            products = self.products + products + dx * dy * (self.count * new)
            mean_x, mean_y = self.mean_x + dx * new, self.mean_y + dy * new
        self.count += len(x)
        self.mean_x, self.mean_y, self.products = mean_x, mean_y, products

    def covariances(self) -> Tensor:
        """Give the covariances [units] of the two series."""
        return (self.products / self.count).cpu()

    def variances(self) -> Tensor:
        """Give the variances [units] of one series; those that are rounding alone are zero."""
        variances, mean = self.covariances(), self.mean_x.cpu()
        varies = variances > (1e-12 * mean).square()
        return variances.where(varies, 0.0 * variances)  # 0 times NaN is NaN


def _variance_ratio(layer: str, merged: _Moments, parents: Sequence[_Moments]) -> float:
    variances = [one.variances() for one in (merged, *parents)]
    if len({one.shape for one in variances}) > 1:
        raise MismatchError(
            f"the networks have different numbers of units in {layer!r}: "
            f"{', '.join(str(len(one)) for one in variances)}"
        )
    of_merged, of_parents = float(variances[0].mean()), float(torch.stack(variances[1:]).mean())
    return of_merged / of_parents if of_parents != 0 else math.nan


def _correlation(first: _Moments, second: _Moments, both: _Moments) -> float:
    a, b = first.variances(), second.variances()
    varies = (a != 0) & (b != 0)
    if not varies.any():
        return math.nan
    covariances = both.covariances()[varies]
    return float((covariances / (a[varies].sqrt() * b[varies].sqrt())).mean())


def _add_variances(
    networks: Sequence[nn.Module],
    located: Sequence[Mapping[str, nn.Module]],
    moments: Sequence[Mapping[str, _Moments]],
    batch: Inputs,
) -> None:
    for network, modules, of_network in zip(networks, located, moments, strict=True):

        def add(layer: str, output: Tensor, to: Mapping[str, _Moments] = of_network) -> None:
            units = _units(output)
            to[layer].add(units, units)

        with _watching(modules, add):
            run_model(network, batch)


def _add_pair(
    networks: Sequence[nn.Module],
    located: Sequence[Mapping[str, nn.Module]],
    moments: Sequence[Mapping[str, _Moments]],
    pairs: Mapping[str, _Moments],
    batch: Inputs,
) -> None:
    kept: dict[str, list[Tensor]] = {layer: [] for layer in pairs}

    def keep(layer: str, output: Tensor) -> None:
        kept[layer].append(output.clone())  # a ReLU behind it may work in place
        units = _units(output)
        moments[0][layer].add(units, units)

    def compare(layer: str, output: Tensor) -> None:
        units = _units(output)
        moments[1][layer].add(units, units)
        if not kept[layer]:
            raise MismatchError(f"the second parent calls {layer!r} more often than the first")
        other = _units(kept[layer].pop(0)).to(units.device)
        if other.shape != units.shape:
            raise MismatchError(
                f"the parents' outputs of {layer!r} have different shapes: "
                f"{list(other.shape)} and {list(units.shape)}"
            )
        pairs[layer].add(other, units)

    with _watching(located[0], keep):
        run_model(networks[0], batch)
    with _watching(located[1], compare):
        run_model(networks[1], batch)


def _units(output: Tensor) -> Tensor:
    """Give activations [..., units] as float64 [n, units]."""
    flat = output.reshape(-1, output.shape[-1])
    if flat.device.type == "mps":  # it has no float64
        flat = flat.cpu()
    return flat.double()


def _observed(network: nn.Module, inputs: Inputs) -> dict[str, str]:
    """Give layer -> the module that is watched for it, in the order of calls on one example."""
    layers = {name: part for name, part in network.named_modules() if _is_layer(part)}
    norms = {name: part for name, part in network.named_modules() if isinstance(part, _NORMS)}
    observed: dict[str, str] = {}
    last: list[tuple[str, Any]] = []  # the newest layer and its output

    def after_layer(name: str, output: Tensor) -> None:
        observed.setdefault(name, name)
        last[:] = [(name, output)]

    def before_norm(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        if last and args and args[0] is last[0][1]:
            observed[last[0][0]] = name

    handles = [
        part.register_forward_pre_hook(partial(before_norm, name)) for name, part in norms.items()
    ]
    try:
        with _watching(layers, after_layer, units_last=False):
            run_model(network, map_inputs(inputs, lambda tensor: tensor[:1]))
    except TypeError as error:
        raise DataError(
            f"{type(network).__name__} does not take these inputs: {error}; give batches of inputs "
            "without targets: conjoin.batches.first_examples(data, count)"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return observed


def _is_layer(part: nn.Module) -> bool:
    if isinstance(part, _WEIGHTED):
        return True
    is_leaf = next(part.children(), None) is None
    return is_leaf and any(parameter.dim() >= 2 for parameter in part.parameters(recurse=False))


def _located(network: nn.Module, who: str, observed: Mapping[str, str]) -> dict[str, nn.Module]:
    parts = dict(network.named_modules())
    if missing := [name for name in observed.values() if name not in parts]:
        raise MismatchError(
            f"parent {who!r} has no module {missing[0]!r}, which the merged network has; "
            "activations can be compared between networks of one architecture only"
        )
    return {layer: parts[name] for layer, name in observed.items()}


@contextmanager
def _watching(
    modules: Mapping[str, nn.Module],
    see: Callable[[str, Tensor], None],
    *,
    units_last: bool = True,
) -> Iterator[None]:
    """Call ``see(name, output)`` at each output of each module in the block, units last."""

    def hook(name: str, part: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.dim() < 2:
            return
        second = units_last and isinstance(part, _UNITS_SECOND)
        see(name, first.movedim(1, -1) if second else first)

    handles = []
    try:
        for name, part in modules.items():
            handles.append(part.register_forward_hook(partial(hook, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
