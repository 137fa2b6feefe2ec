"""What is known about a tensor without reading it: shape, dtype, kind, ties and source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from conjoin.checkpoints.names import match_names
from conjoin.deferred import torch
from conjoin.dtypes import DType, dtype_of
from conjoin.errors import InputError

__all__ = ["Kind", "Spec", "kind_by_name", "override_kinds"]


class Kind(StrEnum):
    """What a tensor is for, which decides how it is combined.

    Only weights pass through a method of merging. Statistics are pooled by a rule of their own,
    counters take their maximum, and constants must agree.

    >>> Kind("weight") is Kind.WEIGHT
    True
    """

    WEIGHT = "weight"
    STATISTIC = "statistic"
    COUNTER = "counter"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True, init=False)
class Spec:
    """One tensor of a checkpoint, as its header tells it.

    Args:
        shape: its shape; `()` for a scalar.
        stored: its dtype; a `torch.dtype`, or what is known of one.
        kind: what it is for.
        alias_of: for a tied tensor, the canonical name (the first in order) of the tensor whose
            storage it shares; None for every tensor that stands for itself.
        source: where the data are, for error messages: a file, or "module VGG".

    >>> spec = Spec((2, 3), torch.bfloat16, Kind.WEIGHT)
    >>> spec.numel, spec.nbytes
    (6, 12)
    """

    shape: tuple[int, ...]
    stored: DType
    kind: Kind
    alias_of: str | None = None
    source: str = ""

    def __init__(
        self,
        shape: tuple[int, ...],
        stored: torch.dtype | DType,
        kind: Kind,
        alias_of: str | None = None,
        source: str = "",
    ) -> None:
        put = object.__setattr__  # it is frozen
        put(self, "shape", shape)
        put(self, "stored", dtype_of(stored))
        put(self, "kind", kind)
        put(self, "alias_of", alias_of)
        put(self, "source", source)

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype, of torch."""
        return self.stored.torch

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the data, `numel * dtype.itemsize`."""
        return self.numel * self.stored.itemsize


_STATISTICS = frozenset({"running_mean", "running_var"})
_COUNTERS = frozenset({"num_batches_tracked", "n_averaged"})  # BatchNorm; AveragedModel

# Buffers with floating values that nobody trained. A file does not say that they are buffers.
_FLOAT_CONSTANTS = frozenset(
    {
        # rotary and sinusoidal positions
        *("inv_freq", "original_inv_freq", "cos_cached", "sin_cached"),
        *("freqs_cis", "freqs_cos", "freqs_sin", "_float_tensor"),
        # attention masks and relative positions
        *("attn_mask", "causal_mask", "masked_bias", "position_ids"),
        *("relative_position_index", "relative_coords_table"),
        # input normalization and anchors of detectors
        *("pixel_mean", "pixel_std", "anchors", "anchor_grid"),
        # left by profilers; opaque state of a module
        *("total_ops", "total_params", "_extra_state"),
    }
)


def kind_by_name(name: str, dtype: torch.dtype | DType, shape: tuple[int, ...] = ()) -> Kind:
    """Guess the kind of a tensor in a file from its name and dtype, and of one by its shape.

    The last component of the name decides: BatchNorm's statistics and counters, then anything
    that is not floating or complex is a constant, then the known untrained buffers, and GPT-2's
    ``attn.bias`` [1, 1, n, n], which is a mask. The rest are weights. `override_kinds` corrects
    what a name cannot tell.

    >>> kind_by_name("layer1.0.bn.running_var", torch.float32).value
    'statistic'
    >>> kind_by_name("blocks.3.attn.relative_position_index", torch.int64).value
    'constant'
    >>> kind_by_name("fc.bias", torch.float16).value
    'weight'
    >>> kind_by_name("h.0.attn.bias", torch.float32, (1, 1, 8, 8)).value
    'constant'
    """
    last = name.rpartition(".")[2]
    if last in _STATISTICS:
        return Kind.STATISTIC
    if last in _COUNTERS:
        return Kind.COUNTER
    if not (dtype.is_floating_point or dtype.is_complex) or last in _FLOAT_CONSTANTS:
        return Kind.CONSTANT
    is_mask = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    if is_mask and f".{name}".endswith(".attn.bias"):
        return Kind.CONSTANT
    return Kind.WEIGHT


def override_kinds(specs: Mapping[str, Spec], kinds: Mapping[str, Kind | str]) -> dict[str, Spec]:
    """Return specs in which the kinds of some tensors are set by patterns over their names.

    Args:
        specs: specs by name.
        kinds: pattern (see `match_names`) -> kind. The first pattern that matches a tensor wins.
            Tied tensors stay of one kind: a pattern that matches one of their names means all.

    Raises:
        InputError: a pattern matches no name, or a kind is unknown.

    >>> specs = {"fc.weight": Spec((2,), torch.float32, Kind.WEIGHT),
    ...          "mask.scale": Spec((2,), torch.float32, Kind.WEIGHT)}
    >>> [spec.kind.value for spec in override_kinds(specs, {"mask.*": "constant"}).values()]
    ['weight', 'constant']
    """
    chosen: dict[str, Kind] = {}  # by canonical name
    for pattern, kind in kinds.items():
        checked = _checked_kind(pattern, kind)
        for name in match_names(pattern, specs):
            chosen.setdefault(specs[name].alias_of or name, checked)
    return {
        name: dataclasses.replace(spec, kind=chosen.get(spec.alias_of or name, spec.kind))
        for name, spec in specs.items()
    }


def _checked_kind(pattern: str, kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        known = ", ".join(repr(known.value) for known in Kind)
        raise InputError(
            f"unknown kind {kind!r} for the pattern {pattern!r}; use one of {known}"
        ) from None
