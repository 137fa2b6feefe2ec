"""Whether `conjoin.align` undoes a random reordering of a network exactly."""

import signal
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn

import conjoin
from conjoin.errors import TraceError
from conjoin.symmetry import Permutations
from zoo_models import builds, note_of
from zoo_models.checking import randomized

__all__ = ["LIMIT", "SEED", "line_of", "measure", "summary"]

SEED = 21
LIMIT = 60.0
"""Seconds of the processor that an alignment may take."""


class OutOfTimeError(Exception):
    """The alignment has not ended in time."""


def measure(family: str, name: str) -> dict[str, Any]:
    """Align a shuffled copy of one model with the model, and compare all weights.

    Constant weights are replaced by random ones, as anything fits a constant. Weights are compared
    and not orders: units that are the same in all weights may change places. Statistics are not
    compared, since no weight says which unit of those they belong to.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs = builds(family)[name]()
    note = {"note": note_of(family, name)} if note_of(family, name) else {}
    try:
        found = conjoin.find_symmetries(model, inputs)
    except TraceError as error:
        return {**note, "traced": False, "reason": str(error)[:600]}
    generator = torch.Generator().manual_seed(SEED)
    example = randomized(model, generator).float()
    del model
    order = found.sample(generator)
    shuffled = order.apply(example)
    units = sum(each.numel() for each in order.orders.values())
    head = {**note, "traced": True, "groups": len(found.groups), "units": units,
            "parameters": found.parameters}  # fmt: skip
    began = time.process_time()
    try:
        with limited(LIMIT):
            aligned = conjoin.align(shuffled, to=example, symmetries=found)
    except OutOfTimeError:
        return {**head, "verdict": "too slow", "seconds": time.process_time() - began}
    seconds = time.process_time() - began
    differ = _different(aligned.apply(shuffled), example)
    return {
        **head,
        "verdict": "wrong" if differ else "exact",
        "objective": aligned.objective,
        "before": aligned.before,
        "start": aligned.starts[0][0] if aligned.starts else "",
        "share_in_place": _share(aligned.permutations, order.inverse()),
        "differ": differ,
        "misplaced": _misplaced(aligned.permutations, order.inverse()),
        "seconds": seconds,
    }


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in what follows after so many seconds of the processor."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise OutOfTimeError

    before = signal.signal(signal.SIGPROF, stop)
    rest, _ = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        # What limits the whole model, if anything does, begins anew.
        signal.setitimer(signal.ITIMER_PROF, rest)
        signal.signal(signal.SIGPROF, before)


def _different(one: nn.Module, two: nn.Module) -> dict[str, float]:
    """Name the weights that are not equal, with the share of their values that differ."""
    others = dict(two.named_parameters())
    shares = {
        name: float((t != others[name]).double().mean()) for name, t in one.named_parameters()
    }
    return {name: share for name, share in shares.items() if share > 0}


def _share(one: Permutations, two: Permutations) -> float:
    same = [order == two.orders[name] for name, order in one.orders.items()]
    return sum(int(each.sum()) for each in same) / max(sum(each.numel() for each in same), 1)


def _misplaced(one: Permutations, two: Permutations) -> dict[str, float]:
    """Name the groups with units that are not in their place, and the share of those."""
    shares = {n: float((order != two.orders[n]).double().mean()) for n, order in one.orders.items()}
    return {name: share for name, share in shares.items() if share > 0}


def line_of(record: Mapping[str, Any]) -> str:
    """Give a model in one line."""
    head = f"{record['family']:12} {record['name']:32}"
    if "verdict" not in record:
        return f"{head} {record['reason']}"
    size = f"{record['groups']:4} groups, {record['units']:6} units"
    line = f"{head} {size}, {record['verdict']:8} {record['seconds']:6.1f} s"
    if record["verdict"] != "wrong":
        return line
    worst = max(record["differ"], key=record["differ"].__getitem__)
    found = f"objective {record['objective']:.6f}, {record['share_in_place']:.1%} in place"
    return f"{line}; {found}, {len(record['differ'])} weights differ, most of all {worst}"


def summary(records: Iterable[Mapping[str, Any]]) -> str:
    """Give the table, a row for each family."""
    rows = [
        "| family | models | traced | found exactly | wrong | too slow | failed "
        "| seconds, median (most) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_family.setdefault(record["family"], []).append(record)
    for family, models in by_family.items():
        verdicts = [m.get("verdict") for m in models]
        traced = sum(m.get("traced", True) for m in models)
        seconds = [m["seconds"] for m in models if "verdict" in m] or [0.0]
        counts = [verdicts.count(one) for one in ("exact", "wrong", "too slow")]
        failed = verdicts.count(None) - (len(models) - traced)
        time_of = f"{statistics.median(seconds):.1f} ({max(seconds):.1f})"
        cells = (family, len(models), traced, *counts, failed, time_of)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)
