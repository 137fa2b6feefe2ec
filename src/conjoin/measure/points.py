"""What curves and surfaces share: one network of one setting, measured on every task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from conjoin.arguments import as_module
from conjoin.batches import Data
from conjoin.checkpoints import from_module
from conjoin.errors import InputError
from conjoin.evaluation import outcomes
from conjoin.merging.agreement import agree, check_ties
from conjoin.records import Record, Split

__all__ = ["are_equal", "check_alike", "check_data", "measure"]


def measure(
    module: nn.Module,
    data: Mapping[str, Data],
    how: Mapping[str, Any],
    *,
    name: str,
    split: Split,
    seed: int,
    batch_size: int,
) -> list[Record]:
    """Measure a network on every task: ``accuracy`` (not for a regression) and ``loss``.

    The numbers are those of `evaluate`; `how` is recorded as it is.

    >>> found = measure(
    ...     nn.Identity(), {"eye": (torch.eye(2), torch.arange(2))}, {"view": "plane"},
    ...     name="plane", split="test", seed=0, batch_size=500,
    ... )
    >>> [(record.metric, round(record.value, 3), record.how) for record in found]
    [('accuracy', 100.0, {'view': 'plane'}), ('loss', 0.313, {'view': 'plane'})]
    """
    records = []
    for task, task_data in data.items():
        found = outcomes(module, task_data, task, batch_size=batch_size)
        records += [
            Record(name, task, split, seed, metric, value, len(found), how)
            for metric, value in found.metrics().items()
        ]
    return records


def check_data(data: Mapping[str, Data]) -> None:
    """Raise an InputError if these are no data sets by name, or none."""
    if not isinstance(data, Mapping):
        raise InputError(
            f"data has to be {{task: data}}, such as {{'t': loader}}, not {type(data).__name__}"
        )
    if not data:
        raise InputError("expected at least one data set, {task: data}; got none")


def check_alike(models: Sequence[nn.Module]) -> None:
    """Raise a MismatchError if names, shapes, dtypes or ties differ, before anything is measured.

    Raises:
        InputError: one of them is no module.
        MismatchError: they differ.

    >>> check_alike([nn.Linear(2, 3), nn.Linear(2, 3)])
    """
    seen = [from_module(as_module(model, "each network")) for model in models]
    agree(seen, {}, None)
    check_ties(seen)


def are_equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether every tensor of two modules of one structure is the same; NaN equals nothing.

    >>> net = nn.Linear(2, 2)
    >>> are_equal(net, net), are_equal(net, nn.Linear(2, 2))
    (True, False)
    """
    a, b = from_module(first), from_module(second)
    return all(
        name in b.specs and torch.equal(a[name], b[name].to(a[name].device)) for name in a.specs
    )
