"""Matching by activations: which units of two networks fire alike on the same inputs.

Units are seen where they are read: at the inputs of linear layers and convolutions, after the
nonlinearity. There, a feature axis is taken apart like that of the weight that reads it (channels
times places after a flatten, heads times units after an attention), and the correlation of each
pair of units is summed up batch by batch, so that memory does not grow with the data.

Source: Li et al., Convergent Learning, ICLR 2016; Ainsworth et al., Git Re-Basin, ICLR 2023, 3.1.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from conjoin.alignment.blocks import boxes_of
from conjoin.batches import Inputs, run_model, size_of
from conjoin.data_statistics.watching import without_fast_path
from conjoin.errors import DataError, NonFiniteError
from conjoin.evaluation import evaluating
from conjoin.symmetry import Group, Layout, Part

__all__ = ["Correlations", "correlate"]

Key = tuple[str | None, str]
"""A group, with the one that it lies within."""


@dataclass(frozen=True)
class Correlations:
    """How alike the units of two networks fire.

    Args:
        of: group without others around it -> float64 [size, size], the mean over the places where
            it is read of the correlations of all pairs: reference first.
        pairs: (outer group, group within it) -> float64 [m, m, n, n]: correlations of the inner
            units in each pair of outer positions.
        examples: that were run.
    """

    of: Mapping[str, Tensor]
    pairs: Mapping[tuple[str, str], Tensor]
    examples: int

    def gain(self, group: Group, orders: Mapping[str, Tensor]) -> Tensor | None:
        """Give the mean correlation that each pair adds: [copies..., n, n]; None if not seen."""
        if not group.within:
            found = self.of.get(group.name)
            return None if found is None else found / group.size
        pair = self.pairs.get((group.within[0], group.name))
        if pair is None:
            return None
        outer = orders.get(group.within[0], torch.arange(len(pair)))  # what is pinned stays
        return pair[torch.arange(len(outer)), outer] / (group.size * len(outer))

    def nested(self, outer: Group, inner: Group) -> Tensor | None:
        """Give the same for inner units of each pair of outer positions: [m, m, n, n]."""
        found = self.pairs.get((outer.name, inner.name))
        return None if found is None else found / (inner.size * outer.size)


def correlate(
    reference: nn.Module,
    model: nn.Module,
    layout: Layout,
    data: Iterable[Inputs],
    *,
    on_done: Callable[[int], None] = lambda count: None,  # noqa: ARG005
) -> Correlations:
    """Run two networks on the same inputs and correlate their units.

    Groups that no linear layer or convolution reads, or that lie within several others, are left
    out. A unit that is always the same has the correlation 0 with all.

    Args:
        reference, model: of one structure, in any order of units; run in eval mode, not changed.
        layout: of both.
        data: batches of inputs.
        on_done: called with the number of examples just done.

    Raises:
        DataError: there is no batch.
        NonFiniteError: an activation is NaN or infinite.
    """
    readers = _readers(reference, layout)
    sums: dict[tuple[str, Key], _Sums] = {}
    examples = 0
    with torch.no_grad(), evaluating([reference, model]), without_fast_path():
        for batch in data:
            seen = [_inputs_of(net, readers, batch) for net in (reference, model)]
            for name, (axis, part) in readers.items():
                calls = zip(*(found.get(name, ()) for found in seen), strict=True)
                for call, (one, two) in enumerate(calls):
                    _check_finite(name, one, two)
                    two = two.to(one.device)
                    for number, (key, a, b) in enumerate(_features(one, two, axis, part, layout)):
                        sums.setdefault((f"{name} {call} {number}", key), _Sums()).add(a, b)
            examples += size_of(batch)
            on_done(size_of(batch))
    if not examples:
        raise DataError("there is no batch to run the networks on; their units cannot be compared")
    return _averaged(sums, layout, examples)


@dataclass
class _Sums:
    """Running sums over samples of the features [n] of two models.

    What is summed up are distances from the first samples' mean: numbers of the size of the
    deviations, of which float32 products are exact enough. Sums over batches are in float64.
    """

    count: int = 0
    shifts: tuple[Tensor, ...] = ()
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, *both: Tensor) -> None:
        """Add samples: [n, samples] of each model."""
        self.shifts = self.shifts or tuple(t.mean(-1, keepdim=True) for t in both)
        one, two = (t - shift for t, shift in zip(both, self.shifts, strict=True))
        self.count += one.shape[-1]
        found = {
            "one": one.sum(-1), "two": two.sum(-1),
            "one squared": one.square().sum(-1), "two squared": two.square().sum(-1),
            "product": one @ two.T,
        }  # fmt: skip
        for name, value in found.items():
            here = value.double().cpu()
            self.sums[name] = self.sums[name] + here if name in self.sums else here

    def correlation(self) -> Tensor:
        """Give the correlations of all pairs: float64 [n, n]."""
        means = [self.sums[name] / self.count for name in ("one", "two")]
        covariance = self.sums["product"] / self.count - means[0][:, None] * means[1]
        names = ("one squared", "two squared")
        one, two = (
            self._deviation(name, mean, shift)
            for name, mean, shift in zip(names, means, self.shifts, strict=True)
        )
        scale = one[:, None] * two
        return torch.where(scale > 0, covariance / scale.where(scale > 0, torch.tensor(1.0)), 0.0)

    def _deviation(self, name: str, mean: Tensor, shift: Tensor) -> Tensor:
        variance = self.sums[name] / self.count - mean.square()
        # What rounding leaves of a constant is no variance.
        rounding = 1e-12 * (shift[:, 0].double().cpu() + mean).square()
        return variance.where(variance > rounding, torch.tensor(0.0)).sqrt()


def _readers(model: nn.Module, layout: Layout) -> dict[str, tuple[int, Part]]:
    """Give module -> (axis of its input's features, how that axis is made up)."""
    found = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear):
            weight, dim, axis = f"{prefix}weight", 1, -1
        elif isinstance(module, _ConvNd) and module.groups == 1:
            weight, dim, axis = f"{prefix}weight", int(not isinstance(module, _ConvTransposeNd)), 1
        elif isinstance(module, nn.RNNBase):
            weight, dim, axis = f"{prefix}weight_ih_l0", 1, -1
        else:
            continue
        parts = layout.tensors.get(weight)
        if parts is not None and _names(parts[dim]) & layout.groups.keys():
            found[name] = (axis, parts[dim])
    return found


def _inputs_of(
    model: nn.Module, readers: Mapping[str, Any], batch: Inputs
) -> dict[str, list[Tensor]]:
    """Run a model and give the inputs of its readers, of each call in its order."""
    found: dict[str, list[Tensor]] = {}

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG001
            value = args[0] if args else next(iter(kwargs.values()))
            if isinstance(value, Tensor):
                found.setdefault(name, []).append(value.detach())

        return keep

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(hook_of(name), with_kwargs=True) for name in readers
    ]
    try:
        run_model(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _check_finite(name: str, one: Tensor, two: Tensor) -> None:
    for label, value in (("reference", one), ("model", two)):
        if not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"the input of {name!r} in the {label} has NaN or infinite values; its units "
                "cannot be compared"
            )


def _features(
    one: Tensor, two: Tensor, axis: int, part: Part, layout: Layout
) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Give (group, features [n, samples] of both), of every group in an input of a reader."""
    flat = [t.movedim(axis, -1).flatten(0, -2).float() for t in (one, two)]
    parts = (Part("atom", None, len(flat[0])), part)
    for (a, names, _), (b, _, _) in zip(*(boxes_of(t, parts) for t in flat), strict=True):
        for place, name in enumerate(names):
            if name is None or name not in layout.groups:
                continue
            outer = layout.groups[name].within
            if len(outer) > 1:
                continue
            kept = [place]
            if outer:
                if names.count(outer[0]) != 1:
                    continue
                kept = [names.index(outer[0]), place]
            sides = [
                t.movedim(kept, list(range(len(kept)))).flatten(0, len(kept) - 1) for t in (a, b)
            ]
            yield (outer[0] if outer else None, name), sides[0].flatten(1), sides[1].flatten(1)


def _averaged(sums: Mapping[tuple[str, Key], _Sums], layout: Layout, examples: int) -> Correlations:
    found: dict[Key, list[Tensor]] = {}
    for (_, key), one in sums.items():
        found.setdefault(key, []).append(one.correlation())
    means = {key: torch.stack(several).mean(0) for key, several in found.items()}
    pairs = {}
    for (outer, name), mean in means.items():
        if outer is not None:
            m, n = layout.groups[name].copies[0], layout.groups[name].size
            pairs[outer, name] = mean.reshape(m, n, m, n).transpose(1, 2)
    return Correlations({n: t for (o, n), t in means.items() if o is None}, pairs, examples)


def _names(part: Part) -> set[str]:
    own = {part.name} if part.name is not None else set()
    return own.union(*map(_names, part.parts))
