"""The straight line between two networks, and how high the loss rises on it.

w(t) = (1 - t) w_a + t w_b
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import nn

from conjoin.arguments import as_numbers
from conjoin.batches import Data
from conjoin.errors import InputError
from conjoin.measure.points import are_equal, check_alike, check_data, measure
from conjoin.merging import merge
from conjoin.records import Record, Split
from conjoin.repairing import has_batchnorm, reestimate_batchnorm

__all__ = ["barriers", "interpolate"]


def interpolate(
    first: nn.Module,
    second: nn.Module,
    data: Mapping[str, Data],
    *,
    names: tuple[str, str] = ("a", "b"),
    at: Sequence[float] | int = 11,
    statistics: Sequence[Data] = (),
    name: str | None = None,
    split: Split = "test",
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
    batch_size: int = 500,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """Measure accuracy (percent) and loss on the straight line between two networks.

        w(t) = (1 - t) w_first + t w_second

    At t = 0 and t = 1 the network is the parent itself, bit for bit. Between them, what is no
    weight is combined as `merge` does: running statistics are pooled with the shares 1 - t and t,
    counters take their maximum, constants must agree. So t = 1/2 is ``merge([first, second])``.
    The line between two equal networks is that network. Beyond the ends (t < 0, t > 1) weights are
    extrapolated, and statistics pooled with the shares ``|1 - t|`` and ``|t|``.

    Points are made one at a time, so that the memory does not depend on how many there are.

    Args:
        first, second: networks of one structure; not changed.
        data: task -> a loader of ``(inputs, targets)`` or that pair for a whole set, as for
            `evaluate`. A loader must give its batches anew for every point: a list, a DataLoader.
        names: what to call the two.
        at: values of t, or a number of them from 0 to 1 at equal distances, the ends included.
        statistics: data to re-estimate BatchNorm on. If there are any, and running statistics, each
            point is measured twice, the ends too: as it is, and with statistics of its own from
            ``reestimate_batchnorm(network, *statistics)``.
        name: `Record.model`; by default ``"FIRST to SECOND"``.
        split: which part of the data this is; recorded.
        seed: of the run; recorded.
        how: further keys for `how` of every record; those of the view stay.
        batch_size: used for whole sets.
        on_done: called with the number of networks measured so far, and of all.

    Returns:
        Records of the view ``interpolation``, with ``from``, ``to``, ``t`` and ``reestimated`` in
        `how`; a regression has no accuracy.

    Raises:
        InputError: no data by task, no networks, or values of t that cannot be used.
        MismatchError: the networks differ in structure or constants.
        NonFiniteError: a weight is NaN or infinite.

    Source: Goodfellow, Vinyals & Saxe, 2015 (arXiv:1412.6544) draw such lines; between trained
    networks, Frankle et al., ICML 2020 (arXiv:1912.05671).

    >>> import torch
    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> with torch.no_grad():
    ...     a.weight.fill_(0), b.weight.fill_(2)
    (Parameter ...
    >>> records = interpolate(a, b, {"t": (torch.ones(1, 1), torch.ones(1, 1))}, at=3)
    >>> [(record.how["t"], record.value) for record in records]
    [(0.0, 1.0), (0.5, 0.0), (1.0, 1.0)]
    """
    check_data(data)
    points = _points(at)
    if len(names) != 2:
        raise InputError(f"names are two, of the first and of the second, not {names!r}")
    check_alike([first, second])
    equal = are_equal(first, second)
    passes = (False, True) if statistics and has_batchnorm(first) else (False,)
    records, done = [], 0
    for t in points:
        # Rounding in (1 - t) w + t w would show as a curve where there is none.
        network = first if equal else _between(first, second, t)
        for reestimated in passes:
            if reestimated:
                network = reestimate_batchnorm(network, *statistics)
            records += measure(
                network,
                data,
                {
                    **(how or {}),
                    "view": "interpolation",
                    "from": names[0],
                    "to": names[1],
                    "t": t,
                    "reestimated": reestimated,
                },
                name=name or f"{names[0]} to {names[1]}",
                split=split,
                seed=seed,
                batch_size=batch_size,
            )
            done += 1
            if on_done is not None:
                on_done(done, len(points) * len(passes))
    return records


def barriers(records: Sequence[Record]) -> list[Record]:
    """Give the barriers of measured lines: how far they are worse than between their ends.

        loss barrier     = max_t  L(t) - ((1 - t) L(0) + t L(1))
        accuracy barrier = max_t  ((1 - t) A(0) + t A(1)) - A(t)      (percentage points)

    over the measured t from 0 to 1. No barrier is negative, since t = 0 gives 0. A loss that is
    infinite between finite ends gives infinity. The barrier is NaN if any value is NaN, or an end
    is infinite, which leaves nothing to compare with.

    Args:
        records: of `interpolate`, of any number of lines. Other views and metrics, and points
            beyond the ends, are left out.

    Returns:
        Records of the view ``barrier``, with the metrics ``loss barrier`` and ``accuracy barrier``:
        one for every line, task, split and seed, and for both kinds of statistics.

    Raises:
        InputError: no record is of `interpolate`; a line lacks t = 0 or t = 1, has fewer than three
            points, or one of them twice.

    Source: Entezari et al., ICLR 2022 (arXiv:2110.06296), definition of the barrier; Frankle et
    al., ICML 2020 (arXiv:1912.05671), subtract the mean of the ends instead.

    >>> how = {"view": "interpolation", "from": "a", "to": "b", "reestimated": False}
    >>> line = [
    ...     Record("a to b", "digits", "test", 0, "loss", loss, 9, {**how, "t": t})
    ...     for t, loss in [(0.0, 1.0), (0.5, 4.0), (1.0, 2.0)]
    ... ]
    >>> [(record.metric, record.value) for record in barriers(line)]
    [('loss barrier', 2.5)]
    """
    if not all(isinstance(record, Record) for record in records):
        raise InputError("barriers are of the records of interpolate(...): barriers(records)")
    lines: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.how.get("view") == "interpolation" and record.metric in _SIGNS:
            same = sorted((k, repr(v)) for k, v in record.how.items() if k != "t")
            key = record.model, record.task, record.split, record.seed, record.metric, tuple(same)
            lines.setdefault(key, []).append(record)
    if records and not lines:
        raise InputError(
            f"none of the {len(records)} records has a loss or an accuracy on a line; barriers are "
            "of the records of interpolate(...)"
        )
    return [_barrier_of(line) for line in lines.values()]


# A barrier is where loss is higher, but accuracy lower, than between the ends.
_SIGNS = {"loss": 1.0, "accuracy": -1.0}


def _barrier_of(line: Sequence[Record]) -> Record:
    first = line[0]
    values = {float(r.how["t"]): r.value for r in line if 0 <= r.how["t"] <= 1}
    where = f"the line {first.model!r} on {first.task!r} ({first.metric}, seed {first.seed})"
    if len(values) < sum(0 <= r.how["t"] <= 1 for r in line):
        raise InputError(f"{where} has a value of t twice; pass the records of one run")
    if 0 not in values or 1 not in values or len(values) < 3:
        raise InputError(
            f"a barrier needs t = 0, t = 1 and a point between; {where} has t = "
            f"{', '.join(f'{t:g}' for t in sorted(values)) or 'none'}"
        )
    return Record(
        first.model,
        first.task,
        first.split,
        first.seed,
        f"{first.metric} barrier",
        _barrier(values, _SIGNS[first.metric]),
        first.count,
        {**{k: v for k, v in first.how.items() if k != "t"}, "view": "barrier"},
    )


def _barrier(values: Mapping[float, float], sign: float) -> float:
    start, end = values[0], values[1]
    if any(map(math.isnan, values.values())) or math.isinf(start) or math.isinf(end):
        return math.nan
    # start + t (end - start), since it is exact on a flat line; the ends are 0 by definition.
    inner = [(t, value) for t, value in values.items() if 0 < t < 1]
    return max(0.0, *(sign * (value - (start + t * (end - start))) for t, value in inner))


def _points(at: Sequence[float] | int) -> list[float]:
    if isinstance(at, Integral):
        count = int(at)
        if count < 2:
            raise InputError(f"at={at} points cannot include both ends; use 2 or more")
        return [number / (count - 1) for number in range(count)]
    if isinstance(at, Real):
        raise InputError(f"at is a list of values of t, or a number of points; pass [{at}] or 11")
    points = as_numbers(at, "at")
    if not points or len(set(points)) < len(points):
        raise InputError(f"at must be different finite numbers, at least one; got {list(points)}")
    return list(points)


def _between(first: nn.Module, second: nn.Module, t: float) -> nn.Module:
    if t in (0, 1):  # merging would pool the statistics and copy
        return second if t else first
    return merge([first, second], "linear", weights=(1 - t, t))
