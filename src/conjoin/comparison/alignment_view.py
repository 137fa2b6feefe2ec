"""What alignment does to two networks: unit by unit, layer by layer, and on the way between them.

The second network is brought into the order of the first by activations on training inputs, as in
the row that is aligned so. All that is then measured is measured on the test part: on the inputs
that units were matched on, even units that have nothing in common would look alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from conjoin.alignment import Alignment
from conjoin.alignment.activations import Correlations, correlate
from conjoin.batches import Inputs
from conjoin.comparison.family import Family
from conjoin.measure.activations import activation_statistics
from conjoin.measure.depth import group_layers, layers_of, merging_by_depth
from conjoin.measure.interpolation import barriers, interpolate
from conjoin.merging import merge
from conjoin.records import Record
from conjoin.repairing import has_batchnorm, reestimate_batchnorm
from conjoin.symmetry import Layout, Permutations

__all__ = ["UNITS", "alignment_records", "why_not_aligned"]

UNITS = 32
"""So many units of a layer are shown against each other; a page draws a square for each pair."""

Pairs = Sequence[tuple[Inputs, Tensor]]


def why_not_aligned(family: Family) -> str | None:
    """Say why the view cannot be had for a family; None if it can, or if that is seen later."""
    if len(family.networks) != 2:
        return f"it is of two networks, and there are {len(family.networks)}"
    lacking = [name for name, task in family.tasks.items() if "train" not in task.parts]
    if lacking:
        return f"{', '.join(lacking)} has no training part to match units on"
    return None


def alignment_records(
    family: Family, data: Mapping[str, Pairs], on_done: Callable[[int, int], None]
) -> list[Record]:
    """Align two networks and measure what that has changed.

    Args:
        family: of two networks.
        data: task -> test examples, in batches.
        on_done: called with (steps done, steps in all).

    Returns:
        Records of the view ``alignment``, see ``docs/run-folder.md``; none if nothing in the
        networks may be reordered.

    Raises:
        TraceError: the networks cannot be traced.
        DataError: a task has no examples.
        NonFiniteError: a weight or an activation is NaN or infinite.
    """
    if not family.symmetries.layout.groups:
        return []
    first, second = family.models().values()
    _, found = family.alignments("activations")
    count = sum(len(targets) for _, targets in family.compared())
    pair = _Pair(family, data, first, second, found, count)
    parts = (_units, _variances, _curves, _depths)
    records: list[Record] = []
    for number, part in enumerate(parts):
        records += part(pair)
        on_done(number + 1, len(parts))
    return records


@dataclass(frozen=True)
class _Pair:
    """Two networks, and the order in which units of the second mean those of the first.

    Args:
        family: that they are of.
        data: task -> test examples.
        first: the reference.
        second: as it was.
        found: its order.
        matched_on: training examples that it was found on.
    """

    family: Family
    data: Mapping[str, Pairs]
    first: nn.Module
    second: nn.Module
    found: Alignment
    matched_on: int

    @cached_property
    def aligned(self) -> nn.Module:
        """The second network in the order of the first."""
        return self.found.apply(self.second)

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """The reference and the aligned network, by name."""
        return dict(zip(self.family.networks, (self.first, self.aligned), strict=True))

    @cached_property
    def statistics(self) -> dict[str, list[tuple[Inputs, Tensor]]]:
        """Task -> training examples for new statistics; none where there is no BatchNorm."""
        family = self.family
        if family.why_not_reestimate() is not None:
            return {}
        return dict(zip(family.tasks, family.statistics(), strict=True))

    @property
    def model(self) -> str:
        """How records call it."""
        return f"{self.family.group.key}: alignment"

    def how(self, of: str) -> dict[str, Any]:
        """Give what all records of one kind say."""
        names = dict(zip(("from", "to"), self.family.networks, strict=True))
        return {"view": "alignment", "of": of, "group": self.family.group.key, **names}


def _units(pair: _Pair) -> Iterator[Record]:
    """Say how well each group of units was matched, and show units of two groups in pairs."""
    layout = pair.found.permutations.layout
    inputs = [inputs for part in pair.data.values() for inputs, _ in part]
    # Both orders are run, so that what is said of the aligned network is seen in it.
    seen = {
        aligned: correlate(pair.first, other, layout, inputs)
        for aligned, other in ((False, pair.second), (True, pair.aligned))
    }
    task, seed, count = " + ".join(pair.data), pair.family.seed, seen[True].examples
    layers = _layers(layout)
    for index, group in enumerate(pair.found.groups):
        how = {
            **pair.how("units"), "units": group.name, "layer": layers[group.name],
            "index": index, "size": group.size,
        }  # fmt: skip
        # Where it has been put is known of the search alone, which sees training inputs.
        moved = "moved fraction", group.moved
        yield Record(pair.model, task, "train", seed, *moved, pair.matched_on, how)
        for aligned, one in seen.items():
            gain = _gain(one, layout, group.name)
            if gain is None:
                continue
            found = {"unit correlation": float(gain.diagonal(dim1=-2, dim2=-1).sum())}
            if aligned:
                found["matched fraction"] = _mutual(gain)
            for metric, value in found.items():
                made = {**how, "aligned": aligned}
                yield Record(pair.model, task, "test", seed, metric, value, count, made)
    for place, name in _shown_groups(pair, seen[False]).items():
        for aligned, one in seen.items():
            shown = one.of[name][:UNITS, :UNITS]
            how = {
                **pair.how("pairs of units"), "units": name, "layer": layers[name], "place": place,
                "size": layout.groups[name].size, "aligned": aligned, "matrix": _written(shown),
            }  # fmt: skip
            mean = float(shown.diagonal().mean())
            yield Record(pair.model, task, "test", seed, "unit correlation", mean, count, how)


def _layers(layout: Layout) -> dict[str, str]:
    """Name each group of units by the layer that has it first, or by itself if two would be one."""
    found = {name: name.rpartition(":")[0].rpartition(".")[0] or name for name in layout.groups}
    names = list(found.values())
    return {group: layer if names.count(layer) == 1 else group for group, layer in found.items()}


def _gain(seen: Correlations, layout: Layout, name: str) -> Tensor | None:
    """Give what each pair of units would add to the mean correlation: [copies..., n, n].

    None if no linear layer or convolution reads them.
    """
    return seen.gain(layout.groups[name], Permutations(layout, {}).orders)


def _mutual(gain: Tensor) -> float:
    """Give the share of units that are each other's best match with the unit in their place."""
    own = gain.diagonal(dim1=-2, dim2=-1)
    best = (own >= gain.amax(-1)) & (own >= gain.amax(-2))
    # A unit that is always the same correlates by 0 with all, and is no match of any.
    return float((best & (own > 0)).double().mean())


def _shown_groups(pair: _Pair, seen: Correlations) -> dict[str, str]:
    """Choose an early group of units and a late one."""
    names = [group.name for group in pair.found.groups if group.name in seen.of]
    chosen = {"late": names[-1]} if names else {}
    return {"early": names[0], **chosen} if len(names) > 1 else chosen


def _written(matrix: Tensor) -> list[str]:
    """Write a matrix [n, n] with two decimals, a text for each row: a list has a line a number."""
    return [" ".join(f"{value:z.2f}" for value in row) for row in matrix.tolist()]


def _variances(pair: _Pair) -> Iterator[Record]:
    """Say how much the mean of the aligned networks varies, as it is and with new statistics."""
    mean = merge(list(pair.networks.values()))
    variants = [(False, mean)]
    if pair.statistics and has_batchnorm(mean):
        variants.append((True, reestimate_batchnorm(mean, *pair.statistics.values())))
    for task, examples in pair.data.items():
        for fresh, merged in variants:
            yield from activation_statistics(
                pair.networks,
                merged,
                [inputs for inputs, _ in examples],
                task=task,
                seed=pair.family.seed,
                name=pair.model,
                how={**pair.how("variance"), "aligned": True, "reestimated": fresh},
                correlation=False,
            )


def _curves(pair: _Pair) -> Iterator[Record]:
    """Measure the way from the first network to the aligned one, and its barriers."""
    first, second = pair.family.networks
    line = interpolate(
        pair.first,
        pair.aligned,
        pair.data,
        names=(first, second),
        at=pair.family.settings.points,
        statistics=list(pair.statistics.values()),
        name=pair.model,
        seed=pair.family.seed,
        how={"aligned": True},
    )
    for of, records in (("interpolation", line), ("barrier", barriers(line))):
        yield from (_renamed(record, pair, of) for record in records)


def _depths(pair: _Pair) -> Iterator[Record]:
    """Measure each task's own network with more and more layers merged with the other's.

    At half of the layers that the view ``depth`` is measured at, under their numbers there.
    """
    if not pair.family.own:
        return
    layers = group_layers(layers_of(pair.first), pair.family.settings.layers)
    coarse = group_layers(layers, -(-len(layers) // 2))
    at = {layer.tensors[-1]: number for number, layer in enumerate(layers, start=1)}
    numbers = [0, *(at[layer.tensors[-1]] for layer in coarse)]
    records = merging_by_depth(
        pair.networks,
        pair.family.own,
        pair.data,
        layers=coarse,
        statistics=pair.statistics,
        modes=["first"],
        name=pair.model,
        seed=pair.family.seed,
        how={"aligned": True},
    )
    for record in records:
        number = numbers[record.how["index"]]
        name = layers[number - 1].name if number else "none"
        how = {**record.how, "index": number, "layer": name}
        yield _renamed(replace(record, how=how), pair, "depth")


def _renamed(record: Record, pair: _Pair, of: str) -> Record:
    """Give a record of another view as one of this."""
    return replace(record, how={**record.how, **pair.how(of)})
