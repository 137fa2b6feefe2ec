"""How strongly each tensor is coupled: numbers, patterns, depth, time, or a gap to keep.

A strength is the factor of ``sum((w_A - w_B)**2)`` in each model's loss: 0 is private, infinity is
one tensor for all. A `Strength` is one of

    2.0                                      the same for every tensor
    {"block_1.*": math.inf, "*": 0.1}        by pattern; the first that matches; else 0
    by_depth(10, 0.1)                        falling from the first layer to the last
    over_time({0: 0.0, 500: 1.0})            changing while training
    target_gap(0.05)                         adapted, so that the layers stay that far apart
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Literal

from conjoin.arguments import as_whole
from conjoin.checkpoints import closest_name, match_names
from conjoin.errors import InputError
from conjoin.measure import Layer

__all__ = [
    "ByDepth",
    "OverTime",
    "Strength",
    "TargetGap",
    "by_depth",
    "check_strength",
    "coupled_names",
    "is_constant",
    "over_time",
    "scaled",
    "shared_names",
    "strengths_at",
    "target_gap",
]

Decay = Literal["geometric", "linear"]

LARGEST = 1e20
"""Finite strengths up to here are computed in float32 without an overflow, with D in it."""


@dataclass(frozen=True)
class ByDepth:
    """See `by_depth`."""

    first: float
    last: float
    decay: Decay
    private: tuple[str, ...]


@dataclass(frozen=True)
class OverTime:
    """See `over_time`."""

    points: tuple[tuple[int, "Strength"], ...]
    decay: Decay


@dataclass(frozen=True)
class TargetGap:
    """See `target_gap`."""

    gap: float
    initial: "Strength"
    rate: float
    every: int
    lowest: float
    highest: float


Strength = float | Mapping[str, float] | ByDepth | OverTime | TargetGap


def by_depth(
    first: float,
    last: float,
    decay: Decay = "geometric",
    *,
    private: str | Sequence[str] = (),
) -> ByDepth:
    """Give a strength that goes from the first layer to the last.

        geometric   first * (last / first) ** (l / (L - 1))      l = 0 ... L - 1
        linear      first + (last - first) * l / (L - 1)

    Layers are those of `conjoin.measure.layers_of`: a norm belongs to the convolution before it.

    Args:
        first, last: strengths of the first and of the last layer that is not private.
        decay: geometric needs two positive finite numbers.
        private: patterns of tensors with strength 0, which do not count as layers.

    >>> by_depth(10, 0.1, private=["classifier.*"]).last
    0.1
    """
    if decay not in ("geometric", "linear"):
        raise InputError(f"decay is geometric or linear, not {decay!r}")
    for value in (first, last):
        _check_number(value, " of by_depth")
    if first != last and not (math.isfinite(first) and math.isfinite(last)):
        raise InputError(
            f"by_depth({first}, {last}) has infinity at one end only, and nothing lies between; "
            'name the layers that are to be one: {"block_1.*": math.inf, "*": 1}'
        )
    if decay == "geometric" and first != last and not (first > 0 and last > 0):
        raise InputError(
            f"a geometric decay from {first} to {last} needs positive numbers; use "
            'decay="linear", or private=[...] for layers with strength 0'
        )
    patterns = (private,) if isinstance(private, str) else tuple(private)
    return ByDepth(float(first), float(last), decay, patterns)


def over_time(points: Mapping[int, Strength], decay: Decay = "linear") -> OverTime:
    """Give a strength that changes while the models train.

    Between two points it goes from one to the other, for each tensor; before the first it is the
    first, after the last the last. Steps are optimizer steps, counted from 0. Infinity is reached
    at its own point and not before: until then the strength stays what it was.

        over_time({0: 0.0, 500: 1.0})                   warm-up
        over_time({0: 1.0, 2000: 0.001}, "geometric")   annealing
        over_time({0: 1.0, 1500: 1.0, 1501: math.inf})  one network in the end

    Args:
        points: step -> strength of any kind but over_time and target_gap.
        decay: how it goes from point to point; geometric counts from zero linearly.

    >>> over_time({0: 0.0, 500: 1.0}).points
    ((0, 0.0), (500, 1.0))
    """
    if decay not in ("geometric", "linear"):
        raise InputError(f"decay is geometric or linear, not {decay!r}")
    if not isinstance(points, Mapping) or not points:
        raise InputError("over_time needs {step: strength}, with one step or more")
    for step, strength in points.items():
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(f"over_time counts optimizer steps 0, 1, 2 ...; {step!r} is none")
        if isinstance(strength, OverTime | TargetGap):
            raise InputError("a point of over_time is a number, a pattern table or by_depth")
        check_strength(strength)
    return OverTime(tuple(sorted(points.items(), key=lambda point: point[0])), decay)


def target_gap(
    gap: float,
    *,
    initial: Strength = 1.0,
    rate: float = 0.5,
    every: int = 10,
    lowest: float = 1e-6,
    highest: float = 1e6,
) -> TargetGap:
    """Give a strength that adapts itself, layer by layer, so that a layer keeps its relative gap.

        strength *= clamp((gap now / gap) ** rate, 1/2, 2)      every `every` steps, for each layer

    Args:
        gap: relative, as `Coupling.gap` gives it: 0 for equal weights, 1.4 for unrelated ones.
        initial: strength at the start; what is 0 there stays private, what is infinite is shared.
        rate: how quickly it adapts.
        every: steps from one adaptation to the next.
        lowest, highest: bounds of the strength.

    Raises:
        InputError: one of them cannot be used.

    >>> target_gap(0.05).gap
    0.05
    """
    if not isinstance(gap, Real) or not 0 < gap < math.inf:
        raise InputError(f"a gap to keep is a positive number, such as 0.05, not {gap!r}")
    as_whole(every, "every", 1)
    numbers = all(isinstance(value, Real) for value in (rate, lowest, highest))
    if not numbers or not rate > 0 or not 0 < lowest <= highest <= LARGEST:
        raise InputError(f"target_gap needs rate > 0 and 0 < lowest <= highest <= {LARGEST:g}")
    if isinstance(initial, OverTime | TargetGap):
        raise InputError("target_gap starts from a number, a pattern table or by_depth")
    check_strength(initial)
    return TargetGap(float(gap), initial, float(rate), int(every), float(lowest), float(highest))


def check_strength(strength: Strength) -> None:
    """Raise an InputError if this cannot be a strength."""
    if isinstance(strength, Mapping):
        if not strength:
            raise InputError("a table of strengths needs at least one pattern")
        for pattern, value in strength.items():
            if not isinstance(pattern, str):
                raise InputError(f"a table of strengths has patterns as keys, not {pattern!r}")
            _check_number(value, f" of {pattern!r}")
    elif not isinstance(strength, ByDepth | OverTime | TargetGap):
        _check_number(strength)


def is_constant(strength: Strength) -> bool:
    """Whether it never changes while training."""
    return not isinstance(strength, OverTime | TargetGap)


def scaled(strength: Strength, factor: float) -> Strength:
    """Multiply a strength that is constant in time; 0 stays 0, whatever the factor.

    >>> scaled({"a": 1.0, "b": 0.0}, math.inf)
    {'a': inf, 'b': 0.0}
    """
    check_strength(strength)
    _check_number(factor, " as a factor")
    if isinstance(strength, Mapping):
        return {pattern: _times(value, factor) for pattern, value in strength.items()}
    if isinstance(strength, ByDepth):
        first, last = _times(strength.first, factor), _times(strength.last, factor)
        decay: Decay = strength.decay if min(first, last) > 0 else "linear"
        return ByDepth(first, last, decay, strength.private)
    if isinstance(strength, OverTime | TargetGap):
        raise InputError("a strength that changes over time cannot be multiplied")
    return _times(strength, factor)


def strengths_at(
    strength: Strength,
    step: int,
    layers: Sequence[Layer],
    names: Sequence[str],
    adapted: Mapping[str, float],
) -> dict[str, float]:
    """Give the strength of each tensor at an optimizer step.

    Args:
        strength: of any kind.
        step: counted from 0.
        layers: of the models, in order.
        names: of the tensors.
        adapted: layer -> factor on the initial strength, for `target_gap`.

    Raises:
        InputError: a pattern matches no tensor.
    """
    if isinstance(strength, Mapping):
        return _by_pattern(strength, names)
    if isinstance(strength, ByDepth):
        return _by_depth(strength, layers, names)
    if isinstance(strength, OverTime):
        return _over_time(strength, step, lambda point: strengths_at(
            point, step, layers, names, adapted
        ))  # fmt: skip
    if isinstance(strength, TargetGap):
        found = strengths_at(strength.initial, step, layers, names, adapted)
        layer_of = {name: layer.name for layer in layers for name in layer.tensors}
        return {
            name: value if value in (0.0, math.inf) else min(
                strength.highest,
                max(strength.lowest, value * adapted.get(layer_of.get(name, ""), 1.0)),
            )
            for name, value in found.items()
        }  # fmt: skip
    return dict.fromkeys(names, float(strength))


def coupled_names(strength: Strength, layers: Sequence[Layer], names: Sequence[str]) -> list[str]:
    """Give the names of the tensors that are not private at all times.

    Raises:
        InputError: a pattern matches no tensor.
    """
    tables = _tables(strength, layers, names)
    return [name for name in names if any(table[name] > 0 for table in tables)]


def shared_names(strength: Strength, layers: Sequence[Layer], names: Sequence[str]) -> list[str]:
    """Give the names of the tensors that are one (strength infinity) at some time.

    Raises:
        InputError: a pattern matches no tensor.
    """
    tables = _tables(strength, layers, names)
    return [name for name in names if any(math.isinf(table[name]) for table in tables)]


def _tables(
    strength: Strength, layers: Sequence[Layer], names: Sequence[str]
) -> list[dict[str, float]]:
    """Give the strengths at all points in time; between two, none is 0 or infinite that is not."""
    steps = [step for step, _ in strength.points] if isinstance(strength, OverTime) else [0]
    return [strengths_at(strength, step, layers, names, {}) for step in steps]


def _by_pattern(table: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    found = dict.fromkeys(names, 0.0)
    taken: set[str] = set()
    for pattern, value in table.items():
        for name in match_names(pattern, names):
            if name not in taken:
                found[name] = float(value)
                taken.add(name)
    return found


def _by_depth(strength: ByDepth, layers: Sequence[Layer], names: Sequence[str]) -> dict[str, float]:
    private = {name for pattern in strength.private for name in match_names(pattern, names)}
    present = [[n for n in layer.tensors if n in names and n not in private] for layer in layers]
    present = [tensors for tensors in present if tensors]
    found = dict.fromkeys(names, 0.0)
    for number, tensors in enumerate(present):
        share = number / (len(present) - 1) if len(present) > 1 else 0.0
        value = _between(strength.first, strength.last, share, strength.decay)
        found |= dict.fromkeys(tensors, value)
    return found


def _over_time(
    strength: OverTime, step: int, table_of: Callable[[Strength], dict[str, float]]
) -> dict[str, float]:
    points = strength.points
    if step >= points[-1][0]:
        return table_of(points[-1][1])
    if step <= points[0][0]:
        return table_of(points[0][1])
    (start, one), (end, other) = next(
        pair for pair in pairwise(points) if pair[0][0] <= step < pair[1][0]
    )
    first, second = table_of(one), table_of(other)
    share = (step - start) / (end - start)
    return {name: _between(first[name], second[name], share, strength.decay) for name in first}


def _between(first: float, last: float, share: float, decay: Decay) -> float:
    if first == last or share == 0:
        return first
    if share == 1:
        return last
    if not (math.isfinite(first) and math.isfinite(last)):
        return first
    if decay == "geometric" and first > 0 and last > 0:
        return float(first ** (1 - share) * last**share)
    return first + (last - first) * share


def _times(value: float, factor: float) -> float:
    return 0.0 if value == 0 or factor == 0 else float(value) * float(factor)


def _check_number(value: object, where: str = "") -> None:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if LARGEST < number < math.inf:
        raise InputError(
            f"a strength{where} is a number up to {LARGEST:g}, beyond which a pull cannot be "
            f"computed, or math.inf (one tensor for all), not {value!r:.80}"
        )
    if not number >= 0:
        near = isinstance(value, str) and closest_name(
            value, ["by_depth", "over_time", "target_gap"]
        )
        hint = f"; did you mean conjoin.coupling.{near}(...)?" if near else ""
        raise InputError(
            f"a strength{where} is a number from 0 (private) to math.inf (one tensor for all), not "
            f"{value!r:.80}{hint}"
        )
