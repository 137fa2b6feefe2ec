"""Every curve of a comparison, as cached stages: one function and one entry of `VIEWS` for each.

A view gives records whose ``how`` says what they belong to, see ``docs/run-folder.md``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from conjoin.batches import Inputs
from conjoin.checkpoints import Checkpoint, Kind, as_checkpoint
from conjoin.comparison.alignment_view import alignment_records, why_not_aligned
from conjoin.comparison.examples import spread_pairs
from conjoin.comparison.family import Family
from conjoin.comparison.measuring import Laboratory
from conjoin.comparison.subject import Network, TaskData, View
from conjoin.measure.activations import activation_statistics
from conjoin.measure.depth import group_layers, layers_of, merging_by_depth
from conjoin.measure.distances import by_layer, distances
from conjoin.measure.interpolation import barriers, interpolate
from conjoin.measure.plane import plane
from conjoin.merging import merge
from conjoin.records import Record, read_records, write_json
from conjoin.repairing import has_batchnorm
from conjoin.stages import Stage

__all__ = ["VIEWS", "ViewKind", "distance_records", "measure_view"]

MOST_PAIRS = 3
"""Of more networks than this makes, only neighbours are interpolated."""

USED: Mapping[View, tuple[str, ...]] = {
    "interpolation": ("points",),
    "plane": ("resolution",),
    "depth": ("layers",),
    "alignment": ("points", "layers"),
}
"""Settings that only some views depend on."""

OnDone = Callable[[int, int], None]

Comparable = nn.Module | Checkpoint


@dataclass(frozen=True)
class ViewKind:
    """One kind of curve.

    Args:
        name: as `Group.views` and ``how["view"]`` call it.
        title: of its progress bar.
        measure: gives the records.
        why_not: says why it cannot be had for a family; None if it can.
        every_seed: whether it is measured for each seed, or for the first one only.
        runs: whether networks are run, so that data matter.
        version: raised whenever a change of the code changes its numbers.
    """

    name: View
    title: str
    measure: Callable[[Laboratory, Family, OnDone], list[Record]]
    why_not: Callable[[Family], str | None]
    every_seed: bool = True
    runs: bool = True
    version: int = 2


def measure_view(lab: Laboratory, family: Family, kind: ViewKind) -> list[Record]:
    """Measure one view of a group, unless that is done."""
    inputs = {f"network {name}": n.stage for name, n in family.networks.items()}
    if kind.runs:
        for name, task in family.tasks.items():
            inputs |= {f"{part} {name}": stage for part, stage in task.stages.items()}
    settings = lab.settings
    used: dict[str, Any] = {
        "view": kind.name,
        "group": family.group.key,
        "networks": list(family.networks),
        "tasks": list(family.tasks) if kind.runs else [],
        "own": dict(family.own) if kind.name in ("depth", "alignment") else {},
        "seed": family.seed,
    }
    if kind.runs:
        used |= {"statistics": settings.statistics, "examples": settings.curve_examples}
    if kind.name == "plane":
        inputs |= {f"corner {name}": n.stage for name, n in _corners(family).items()}
        used["corners"] = list(_corners(family))
    used |= {name: getattr(settings, name) for name in USED.get(kind.name, ())}
    stage = Stage("view", kind.version, used, inputs)

    def make(out: Path) -> None:
        update = lab.progress(f"{kind.title}: {family.group.title}")
        write_json(out / "records.json", kind.measure(lab, family, update))

    return read_records(lab.stage(stage, make) / "records.json")


def _test_data(lab: Laboratory, family: Family) -> dict[str, list[tuple[Inputs, Tensor]]]:
    return {name: _test_pairs(lab, task) for name, task in family.tasks.items()}


def _test_pairs(lab: Laboratory, task: TaskData) -> list[tuple[Inputs, Tensor]]:
    total = task.counts.get("test")
    return spread_pairs(task.parts["test"](), lab.settings.curve_examples, total, task.name)


def _statistics(family: Family) -> list[list[tuple[Inputs, Tensor]]]:
    return [] if family.why_not_reestimate() else family.statistics()


def _pairs(family: Family) -> list[tuple[Network, Network]]:
    networks = list(family.networks.values())
    if len(networks) <= MOST_PAIRS:
        return list(combinations(networks, 2))
    return list(pairwise(networks))


def _interpolation(lab: Laboratory, family: Family, on_done: OnDone) -> list[Record]:
    data, statistics = _test_data(lab, family), _statistics(family)
    pairs = _pairs(family)
    records: list[Record] = []
    for number, (first, second) in enumerate(pairs):
        records += interpolate(
            first.load(),
            second.load(),
            data,
            names=(first.name, second.name),
            at=lab.settings.points,
            statistics=statistics,
            seed=family.seed,
            name=f"{family.group.key}: {first.name} to {second.name}",
            how={"group": family.group.key},
            on_done=_shifted(on_done, number, len(pairs)),
        )
    return [*records, *barriers(records)]


def _plane(lab: Laboratory, family: Family, on_done: OnDone) -> list[Record]:
    corners = {name: network.load() for name, network in _corners(family).items()}
    return plane(
        corners,
        _test_data(lab, family),
        resolution=lab.settings.resolution,
        statistics=_statistics(family),
        seed=family.seed,
        name=f"{family.group.key}: plane",
        how={"group": family.group.key},
        on_done=on_done,
    )


def _depth(lab: Laboratory, family: Family, on_done: OnDone) -> list[Record]:
    models = family.models()
    layers = group_layers(layers_of(next(iter(models.values()))), lab.settings.layers)
    names = list(family.tasks) if _statistics(family) else []
    statistics = dict(zip(names, family.statistics(names), strict=True))
    return merging_by_depth(
        models,
        family.own,
        _test_data(lab, family),
        layers=layers,
        statistics=statistics,
        seed=family.seed,
        name=f"{family.group.key}: depth",
        how={"group": family.group.key},
        on_done=on_done,
    )


def _activations(lab: Laboratory, family: Family, on_done: OnDone) -> list[Record]:
    models = family.models()
    mean = merge(list(models.values()))
    variants = [(False, mean)]
    if has_batchnorm(mean) and not family.why_not_reestimate():
        variants.append((True, family.repaired(mean)))
    jobs = [(task, variant) for task in family.tasks for variant in variants]
    records: list[Record] = []
    for number, (task, (reestimated, merged)) in enumerate(jobs):
        pairs = _test_pairs(lab, family.tasks[task])
        records += activation_statistics(
            models,
            merged,
            [inputs for inputs, _ in pairs],
            task=task,
            seed=family.seed,
            name=f"{family.group.key}: activations",
            how={"group": family.group.key, "reestimated": reestimated},
            # It is between the parents: the merged network does not change it.
            correlation=not reestimated,
        )
        on_done(number + 1, len(jobs))
    return records


def _distances(lab: Laboratory, family: Family, on_done: OnDone) -> list[Record]:  # noqa: ARG001
    records = []
    pairs = _pairs(family)
    for number, (first, second) in enumerate(pairs):
        records += distance_records(
            family.group.key, (first.name, second.name), first.load(), second.load(), family.seed
        )
        on_done(number + 1, len(pairs))
    return records


def distance_records(
    group: str, names: tuple[str, str], first: Comparable, second: Comparable, seed: int
) -> list[Record]:
    """Give the distances between the weights of two models, layer by layer.

    Layers that have vectors only, such as norms, are left out: they would hide the others.
    """
    rows = [r for r in by_layer(distances(first, second)) if r.kind is Kind.WEIGHT]
    specs = as_checkpoint(first).specs
    wide = {name.rpartition(".")[0] for name, spec in specs.items() if len(spec.shape) > 1}
    rows = [row for row in rows if row.name in wide] or rows
    records = []
    for index, row in enumerate(rows):
        how = {
            "view": "distances", "group": group, "from": names[0], "to": names[1],
            "layer": row.name or "(root)", "index": index,
        }  # fmt: skip
        model = f"{group}: {names[0]} to {names[1]}"
        for metric, value in (("relative distance", row.relative), ("cosine", row.cosine)):
            records.append(Record(model, "weights", "none", seed, metric, value, row.count, how))
    return records


def _alignment(lab: Laboratory, family: Family, on_done: OnDone) -> list[Record]:
    return alignment_records(family, _test_data(lab, family), on_done)


def _corners(family: Family) -> Mapping[str, Network]:
    if family.group.plane is not None:
        return family.group.plane
    return dict(list(family.networks.items())[:3])


def _one_network(family: Family) -> str | None:
    return "it needs two networks" if len(family.networks) < 2 else None


def _no_third(family: Family) -> str | None:
    if len(_corners(family)) < 3:
        return "a plane goes through three networks, and there are two"
    return None


def _shifted(on_done: OnDone, number: int, total: int) -> OnDone:
    """Show one of several equal jobs as a part of all."""
    return lambda done, of: on_done(number * of + done, total * of)


VIEWS: tuple[ViewKind, ...] = (
    ViewKind("interpolation", "between two networks", _interpolation, _one_network),
    ViewKind("plane", "loss surface", _plane, _no_third, every_seed=False),
    ViewKind("depth", "layer by layer", _depth, _one_network),
    ViewKind("activations", "activations", _activations, _one_network),
    ViewKind("distances", "distances", _distances, _one_network, runs=False, version=3),
    ViewKind("alignment", "aligned", _alignment, why_not_aligned, every_seed=False, version=1),
)
