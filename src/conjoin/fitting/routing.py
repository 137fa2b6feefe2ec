"""Networks of several tasks that need not be told the task: it is inferred from the example.

Means and standard deviations of what the first layer gives have a normal distribution for each
task (discriminant analysis: Fisher, The use of multiple measurements in taxonomic problems, 1936;
Friedman, Regularized discriminant analysis, 1989). Labels of classes are not needed: which data
set an example is from is all that there is to learn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from conjoin.batches import Data, Inputs, device_of, map_inputs
from conjoin.errors import DataError, InputError, NonFiniteError
from conjoin.modules import (
    MultiHead,
    RoutedNetworks,
    Rule,
    TaskNetworks,
    first_layer,
    pooled_outputs,
)
from conjoin.repairing.held_out import EVERY, read

__all__ = ["RouteReport", "route"]

T = TypeVar("T")

RIDGES = (0.001, 0.01, 0.1, 0.5)
"""Shares of a multiple of the identity in a covariance, that are tried."""

DIMENSIONS = 128
"""Principal components of the features, at most."""

ROWS = 1000
"""Examples that principal components are found on, at most."""


@dataclass(frozen=True)
class RouteReport:
    """What `route` found.

    Args:
        layer: whose outputs are looked at.
        accuracy: of each task, the share of held-out examples that were taken for its own.
        shared_covariance: whether all tasks have one covariance, so that the rule is linear.
        ridge: share of a multiple of the identity in the covariances.
        dimensions: of the normal distributions.
        examples: of each task that were looked at, the held-out ones among them.
    """

    layer: str
    accuracy: Mapping[str, float]
    shared_covariance: bool
    ridge: float
    dimensions: int
    examples: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)


def route(
    networks: TaskNetworks | MultiHead | Mapping[str, nn.Module],
    data: Sequence[Data] | Mapping[str, Data],
    *,
    layer: str | None = None,
    examples: int = 2000,
) -> tuple[RoutedNetworks, RouteReport]:
    """Make one network of a network for each task: each example's task is inferred.

    For what `conjoin.merge_with_data` makes with private layers, where inputs of the tasks look
    different. Where they do not, held-out examples show it: see ``accuracy`` in the report. One
    in five examples is held out to choose by, with the logarithmic score; the rule is then made of
    all of them.

    Args:
        networks: of each task, or one with a head for each; not changed, and part of the result.
        data: a loader for each task, by name or in the same order: batches of inputs, or of
            ``(inputs, labels)``. Labels are not looked at.
        layer: name of the module, in the network of the first task, that examples are told apart
            by; by default the first one that runs, has a weight of two dimensions or more, and
            gives a tensor [examples, ...].
        examples: of each task, at most.

    Returns:
        A module that is called as the networks are, and what was found.

    Raises:
        InputError: not the data sets of the tasks, or no such layer.
        DataError: a data set has fewer than five examples.
        NonFiniteError: the layer gives NaN or infinite values.

    >>> torch.manual_seed(0) and None
    >>> low, high = torch.randn(50, 4), torch.randn(50, 4) + 3
    >>> networks = {"low": nn.Linear(4, 9), "high": nn.Linear(4, 9)}
    >>> one, report = route(networks, [[low], [high]])
    >>> {task: round(share, 2) for task, share in report.accuracy.items()}
    {'low': 1.0, 'high': 1.0}
    >>> mixed = torch.stack([high[0], low[0]])
    >>> apart = [networks["high"](high[0]), networks["low"](low[0])]
    >>> torch.allclose(one(mixed), torch.stack(apart), atol=1e-6)
    True
    """
    if isinstance(networks, MultiHead):
        networks = {task: networks.for_task(task) for task in networks.heads}
    if not isinstance(networks, TaskNetworks):
        networks = TaskNetworks(networks)
    tasks = list(networks.networks)
    if isinstance(data, Mapping):
        if set(data) != set(tasks):
            raise InputError(f"data= is for {', '.join(data)}, the networks for {', '.join(tasks)}")
        data = [data[task] for task in tasks]
    sets = read(data, len(tasks), examples, 250)
    if len(sets) != len(tasks):
        raise InputError(
            f"route() needs a data set for each of {', '.join(tasks)}, not one for all"
        )
    network = networks.for_task(tasks[0])
    device = device_of(network)
    if device is not None:
        sets = [[map_inputs(batch, lambda t: t.to(device)) for batch in part] for part in sets]
    name = _called(first_layer, network, sets[0][0]) if layer is None else layer
    features = [_features(network, name, part) for part in sets]
    for task, found in zip(tasks, features, strict=True):
        if len(found) < EVERY:
            raise DataError(f"{task!r} has {len(found)} examples; route() needs {EVERY} of each")
        if not bool(found.isfinite().all()):
            raise NonFiniteError(f"{name!r} gives NaN or infinite values on data of {task!r}")
    held = [found[EVERY - 1 :: EVERY] for found in features]
    stays = [found[torch.arange(1, len(found) + 1) % EVERY != 0] for found in features]
    tried = {
        (shared, ridge): _rule(name, stays, shared=shared, ridge=ridge)
        for shared in (False, True)
        for ridge in RIDGES
    }
    best = max(tried, key=lambda choice: _log_score(tried[choice], held))
    accuracy = {
        task: float((tried[best].scores(part).argmax(1) == number).double().mean())
        for number, (task, part) in enumerate(zip(tasks, held, strict=True))
    }
    rule = _rule(name, features, shared=best[0], ridge=best[1])
    tensors = {n: v.float().to(device) for n, v in vars(rule).items() if isinstance(v, Tensor)}
    report = RouteReport(name, accuracy, *best, rule.basis.shape[1], tuple(map(len, features)))
    return RoutedNetworks(networks, Rule(name, **tensors)), report


def _features(network: nn.Module, layer: str, part: Sequence[Inputs]) -> Tensor:
    """Give float64 [examples, features]."""
    found = [_called(pooled_outputs, network, batch, layer) for batch in part]
    if len({one.shape[1] for one in found}) > 1:
        raise InputError(f"{layer!r} gives other features from batch to batch; name another layer=")
    return torch.cat(found).cpu().double()


def _called(function: Callable[..., T], network: nn.Module, batch: Inputs, *given: Any) -> T:
    """Call a function of a network's inputs, which may have names."""
    if isinstance(batch, Mapping):
        return function(network, *given, **batch)
    inputs = (batch,) if isinstance(batch, Tensor) else tuple(batch)
    return function(network, *given, *inputs)


def _rule(name: str, features: Sequence[Tensor], *, shared: bool, ridge: float) -> Rule:
    """Make the distributions of all tasks, each counting the same."""
    means = [one.mean(0) for one in features]
    shift = torch.stack(means).mean(0)
    within = torch.stack([one.var(0, correction=0) for one in features]).mean(0).sqrt()
    scale = torch.where(within > 0, within, torch.ones_like(within))
    basis = _basis([(one - shift) / scale for one in features]) / scale[:, None]
    mapped = [(one - shift) @ basis for one in features]
    centers = torch.stack([one.mean(0) for one in mapped])
    covariances = torch.stack([one.T.cov(correction=0) for one in mapped]).reshape(
        len(mapped), basis.shape[1], basis.shape[1]
    )
    if shared:
        covariances = covariances.mean(0).expand_as(covariances)
    unit = torch.eye(basis.shape[1], dtype=torch.float64)
    size = covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-9
    factors = torch.linalg.cholesky((1 - ridge) * covariances + ridge * size * unit)
    inverse = torch.linalg.solve_triangular(factors, unit.expand_as(factors), upper=False)
    offsets = inverse.diagonal(dim1=1, dim2=2).log().sum(1)
    return Rule(name, shift, basis, centers, inverse, offsets)


def _basis(features: Sequence[Tensor]) -> Tensor:
    """Give the first principal components, or the identity where there are few features."""
    count = features[0].shape[1]
    if count <= DIMENSIONS:
        return torch.eye(count, dtype=torch.float64)
    most = ROWS // len(features)
    rows = torch.cat([one[:: -(-len(one) // most)] for one in features])
    directions: Tensor = torch.linalg.svd(rows, full_matrices=False).Vh
    return directions[:DIMENSIONS].T.contiguous()


def _log_score(rule: Rule, held: Sequence[Tensor]) -> float:
    """Give the mean logarithm of the probability of the right task, each task counting the same."""
    found = [rule.scores(part).log_softmax(1)[:, k].mean() for k, part in enumerate(held)]
    return float(torch.stack(found).mean())
