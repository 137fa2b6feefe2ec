"""The statistics of every layer: of the parents, and of the merged network before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from conjoin.batches import Inputs
from conjoin.data_statistics.execution import Program
from conjoin.data_statistics.layers import Layer
from conjoin.repairing.correcting import measure, named_tensors
from conjoin.repairing.moments import Statistics, averaged
from conjoin.repairing.plan import Planned, channels_of
from conjoin.repairing.report import LayerRepair

__all__ = ["Layers", "compared", "reported"]


@dataclass(frozen=True, eq=False)
class Layers:
    """A traced network, and what its layers should give.

    Args:
        program: of the network; None if it cannot be traced.
        plan: what can be repaired, in the order of execution.
        left: name -> why it cannot be.
        targets: the parents' statistics, averaged.
    """

    program: Program | None
    plan: tuple[Planned, ...]
    left: Mapping[str, str]
    targets: Mapping[Layer, Statistics]


def compared(
    program: Program,
    plan: Sequence[Planned],
    networks: Sequence[nn.Module],
    sets: Sequence[Sequence[Inputs]],
    shares: Sequence[float],
    who: str = "parent",
) -> dict[Layer, Statistics]:
    """Average the statistics of networks, each on its own data set, or all on the only one.

    Args:
        program: of all of them.
        plan: whose layers are measured.
        networks: one for each share.
        sets: batches; one set for each network, or one for all.
        shares: with the sum 1.
        who: what the networks are called in messages, before their number.
    """
    found = []
    for number, network in enumerate(networks):
        own = sets[number % len(sets)]
        label = f"{who} {number + 1}"
        found.append(measure(program, named_tensors(network), plan, own, label))
    return {part.layer: averaged([one[part.layer] for one in found], shares) for part in plan}


def reported(
    layers: Layers,
    sets: Sequence[Sequence[Inputs]],
    shares: Sequence[float],
    before: nn.Module,
    after: nn.Module,
    method: str,
    constant: Mapping[str, int],
) -> tuple[LayerRepair, ...]:
    """Say of each layer what was done, and how its variance compares with the parents'.

    Args:
        layers: what they should give.
        sets: batches of each data set.
        shares: of the parents.
        before, after: the merged network as it was, and what was chosen.
        method: that was chosen.
        constant: channels of layers that were taken as constant.
    """
    if layers.program is None:
        return ()
    weights = [1.0] if len(sets) == 1 else shares
    then, now = (
        compared(layers.program, layers.plan, [module] * len(sets), sets, weights, who)
        for module, who in (
            (before, "the merged network on data set"),
            (after, "the repaired network on data set"),
        )
    )
    tensors = named_tensors(before)
    return tuple(
        LayerRepair(
            part.layer.name,
            "batchnorm" if part.layer.kind == "scale" else part.layer.kind,
            channels_of(part.layer, tensors),
            *_done(part, method),
            constant.get(part.layer.name, 0),
            _ratio(then[part.layer], layers.targets[part.layer]),
            _ratio(now[part.layer], layers.targets[part.layer]),
        )
        for part in layers.plan
    )


def _done(part: Planned, method: str) -> tuple[str, str]:
    """Give what was moved, and what could not be."""
    if part.kind == "batchnorm":
        return ("nothing" if method == "none" else "re-estimated"), ""
    if method in ("none", "reestimate"):
        return "nothing", ""
    if part.bias is None:
        return ("nothing" if method == "bias" else "deviation"), part.note
    return {"repair": "mean and deviation", "rescale": "deviation", "bias": "mean"}[method], ""


def _ratio(ours: Statistics, theirs: Statistics) -> float | None:
    """Give the mean over channels of the variance relative to that of the parents."""
    varies = theirs.deviation > 0
    if not bool(varies.any()):
        return None
    return float((ours.deviation[varies] / theirs.deviation[varies]).square().mean())
