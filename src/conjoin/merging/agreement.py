"""Whether several checkpoints can be merged, from their headers: names, shapes, dtypes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from conjoin.arguments import plain
from conjoin.checkpoints import Checkpoint, Kind, Spec, describe_name_difference, match_names
from conjoin.deferred import torch
from conjoin.dtypes import DType, dtype_of
from conjoin.errors import InputError, MismatchError

__all__ = ["agree", "check_plain", "check_ties", "kept_names", "label"]

# An error shows the first few tensors that do not fit.
SHOWN = 5
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.[^.]+\.original\d*$")
_OF_TOKENS = re.compile(r"embed|wte|shared|lm_head|predictions")
"""Names of what has a row for each token."""


def label(number: int, checkpoint: Checkpoint) -> str:
    """Say which of the models is meant, in an error."""
    return f"model {number} ({checkpoint.source})"


def kept_names(sources: Sequence[Checkpoint], keep: Mapping[str, int]) -> dict[str, int]:
    """Resolve ``{pattern: number of the model}`` to ``{name: number}``; the first pattern wins.

    Raises:
        InputError: no such model, a pattern that matches no name of it, or a tied tensor that is
            kept without its partner in a tie.
    """
    kept: dict[str, int] = {}
    for pattern, number in keep.items():
        number = plain(number)
        if not isinstance(number, int) or not 0 <= number < len(sources):
            raise InputError(
                f"keep={{{pattern!r}: {number!r}}} names no model; they are 0 to {len(sources) - 1}"
            )
        for name in match_names(pattern, sources[number].specs):
            kept.setdefault(name, number)
    for source in sources:
        for name, spec in source.specs.items():
            partner = spec.alias_of
            if partner is not None and kept.get(name) != kept.get(partner):
                raise InputError(
                    f"{name!r} is tied to {partner!r} in {source.source}; keep both of one model, "
                    "or neither"
                )
    return kept


def agree(
    sources: Sequence[Checkpoint], kept: Mapping[str, int], dtype: torch.dtype | DType | None
) -> dict[str, Spec]:
    """Give the specs of a merge of `sources`, or say what does not fit.

    Names, order, kinds and ties are those of the first; a kept tensor is as in the model that it
    is kept from. A tied tensor may lack its second name in some models (safetensors files leave
    it out).

    Raises:
        MismatchError: other names, shapes or dtypes.
    """
    first = sources[0]
    for number, other in enumerate(sources[1:], start=1):
        _same_names(first, other, number, kept)
        _same_shapes(first, other, number, kept, dtype)
    specs = {}
    for name in dict.fromkeys([*first.specs, *kept]):
        spec = sources[kept.get(name, 0)].specs[name]
        floating = _is_merged(spec)
        specs[name] = (
            replace(spec, stored=dtype_of(dtype)) if dtype is not None and floating else spec
        )
    return specs


def check_plain(specs: Mapping[str, Spec], kept: Mapping[str, int]) -> None:
    """Refuse the parts of weights that a module computes: their mean is another weight.

    By the names of torch.nn.utils: parametrizations, the older weight_norm and spectral_norm, and
    pruning.

    Raises:
        InputError: there are such tensors, which are not kept as they are.
    """
    for name in specs:
        stem, _, end = name.rpartition("_")
        others = {"v": ("g",), "orig": ("mask", "u")}.get(end, ())
        beside = stem.endswith("weight") and any(f"{stem}_{other}" in specs for other in others)
        if name not in kept and (beside or _PARAMETRIZED.search(name)):
            raise InputError(
                f"{name!r} is a part of a weight that is computed when the model runs "
                "(weight_norm, spectral_norm, pruning or another parametrization), and the mean of "
                "the parts gives another weight than the mean of weights. Make it plain in every "
                "model, and save them again: torch.nn.utils.parametrize.remove_parametrizations, "
                "remove_weight_norm, remove_spectral_norm, prune.remove; or keep what belongs to "
                "it of one model: keep={pattern: number}"
            )


def _is_merged(spec: Spec) -> bool:
    return spec.kind in (Kind.WEIGHT, Kind.STATISTIC)


def _same_names(first: Checkpoint, other: Checkpoint, number: int, kept: Mapping[str, int]) -> None:
    left, right = _needed(first, other, kept), _needed(other, first, kept)
    difference = describe_name_difference(
        left, right, first_label=label(0, first), second_label=label(number, other)
    )
    if difference:
        raise MismatchError(
            "the models have different tensors, so they cannot be merged name by name:\n"
            f"{difference}\nIf some belong to one model only, keep them: keep={{pattern: number}}"
        )


def _needed(one: Checkpoint, other: Checkpoint, kept: Mapping[str, int]) -> list[str]:
    """Names of `one`, without what is kept and second names that `other` leaves out."""
    return [
        name
        for name, spec in one.specs.items()
        if name not in kept and (name in other.specs or spec.alias_of not in other.specs)
    ]


def _same_shapes(
    first: Checkpoint,
    other: Checkpoint,
    number: int,
    kept: Mapping[str, int],
    dtype: torch.dtype | DType | None,
) -> None:
    shared = [name for name in first.specs if name in other.specs and name not in kept]
    pairs = [(name, first.specs[name], other.specs[name]) for name in shared]
    wrong = [
        f"{name!r}: {list(a.shape)} and {list(b.shape)}"
        for name, a, b in pairs
        if a.shape != b.shape
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} tensors of {label(0, first)} and {label(number, other)} have different "
            f"shapes: {_shown(wrong)}. {_what_to_do(pairs)}"
        )
    wrong = [
        f"{name!r}: {a.stored} and {b.stored}"
        for name, a, b in pairs
        if a.stored != b.stored
        and (_is_merged(a) or _is_merged(b))
        # Another dtype for the result leaves integers what they are.
        and (dtype is None or not (_is_merged(a) and _is_merged(b)))
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} tensors of {label(0, first)} and {label(number, other)} have different "
            f"dtypes: {_shown(wrong)}. Choose the result's: dtype=torch.float32, say (for modules, "
            "convert one of them first)"
        )


def _what_to_do(pairs: Sequence[tuple[str, Spec, Spec]]) -> str:
    different = [(name, a.shape, b.shape) for name, a, b in pairs if a.shape != b.shape]
    if all(_OF_TOKENS.search(name) and a[1:] == b[1:] for name, a, b in different):
        return (
            "If their rows are those of tokens, of vocabularies that differ, match them by token: "
            "conjoin merge --vocabulary union, `vocabulary: union` in a recipe, or "
            "`tokenizer_source: union` in one of mergekit's. Else keep={pattern: number}"
        )
    return "Merge models of one structure, or keep={pattern: number}"


def check_ties(sources: Sequence[Checkpoint]) -> None:
    """Read what is one tensor in the first of some checkpoints, and may not be in another.

    Raises:
        MismatchError: two names that the first ties hold different values elsewhere.
    """
    first = sources[0]
    for number, other in enumerate(sources[1:], start=1):
        for name, spec in first.specs.items():
            partner = spec.alias_of
            if partner is None or name not in other.specs:
                continue
            roots = [other.specs[one].alias_of or one for one in (name, partner)]
            if roots[0] != roots[1] and not torch.equal(other[name], other[partner]):
                raise MismatchError(
                    f"{name!r} and {partner!r} are one tensor in {label(0, first)}, but differ in "
                    f"{label(number, other)}; untie the first, or tie the second"
                )


def _shown(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")
