"""Several models in, one of the same kind out: the one-line answer."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, overload

from conjoin.arguments import as_dtype, as_mapping, as_whole
from conjoin.checkpoints import (
    Checkpoint,
    FileRange,
    Kind,
    MemoryCheckpoint,
    as_checkpoint,
    override_kinds,
)
from conjoin.deferred import torch
from conjoin.errors import InputError
from conjoin.merging.agreement import kept_names
from conjoin.merging.by_pattern import Choices
from conjoin.merging.merged import Merged
from conjoin.merging.modules import check_modules, copy_of
from conjoin.merging.task import make_tasks
from conjoin.methods import METHODS, Method, find_method

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["POOLED", "merge"]

POOLED = "conjoin_pooled_statistics"
"""Attribute set on a normalization layer whose running statistics were pooled by a merge."""

Path = str | os.PathLike[str]
Combine: TypeAlias = "Callable[[list[Tensor]], Tensor]"
Weights = Sequence[float] | Mapping[str, Sequence[float]] | None


M = TypeVar("M", bound="nn.Module")


@overload
def merge(
    models: Iterable[M],
    method: str | Method | Combine = ...,
    *,
    base: M | None = ...,
    weights: Weights = ...,
    parameters: Mapping[str, Any] | None = ...,
    keep: Mapping[str, int] | None = ...,
    kinds: Mapping[str, Kind | str] | None = ...,
    dtype: torch.dtype | str | None = ...,
    allow_nonfinite: bool = ...,
    seed: int = ...,
) -> M: ...
@overload  # a Checkpoint is a Mapping too, but this comes first
def merge(  # type: ignore[overload-overlap]
    models: Iterable[Checkpoint | Path],
    method: str | Method | Combine = ...,
    *,
    base: Checkpoint | Path | None = ...,
    weights: Weights = ...,
    parameters: Mapping[str, Any] | None = ...,
    keep: Mapping[str, int] | None = ...,
    kinds: Mapping[str, Kind | str] | None = ...,
    dtype: torch.dtype | str | None = ...,
    allow_nonfinite: bool = ...,
    seed: int = ...,
) -> Checkpoint: ...
@overload
def merge(
    models: Iterable[Mapping[str, Tensor]],
    method: str | Method | Combine = ...,
    *,
    base: Mapping[str, Tensor] | None = ...,
    weights: Weights = ...,
    parameters: Mapping[str, Any] | None = ...,
    keep: Mapping[str, int] | None = ...,
    kinds: Mapping[str, Kind | str] | None = ...,
    dtype: torch.dtype | str | None = ...,
    allow_nonfinite: bool = ...,
    seed: int = ...,
) -> dict[str, Tensor]: ...
def merge(
    models: Iterable[Any],
    method: str | Method | Combine = "mean",
    *,
    base: Any = None,
    weights: Weights = None,
    parameters: Mapping[str, Any] | None = None,
    keep: Mapping[str, int] | None = None,
    kinds: Mapping[str, Kind | str] | None = None,
    dtype: torch.dtype | str | None = None,
    allow_nonfinite: bool = False,
    seed: int = 0,
) -> Any:
    """Merge models of one structure, tensor by tensor.

    Only weights pass through the method. Running statistics are pooled (and should be
    re-estimated: `reestimate_batchnorm`), counters take their maximum, constants must agree,
    non-persistent buffers are the first model's. Tied tensors are merged once and stay tied.

    Args:
        models: modules, state mappings, or checkpoints (paths of files, or opened ones); all of
            the same kind. The inputs are not changed.
        method: a name in `conjoin.methods.METHODS`, a `Method`, or any function of a list of
            tensors, one per model, in float32, that gives a tensor of their shape.
        base: the common ancestor, for methods that merge changes from it.
        weights: one number per model, for methods that take weights; or such lists by pattern of
            names, where they differ between tensors: ``{"features.*": [0.8, 0.2], "*": [1, 1]}``.
        parameters: of the method, by name; each a value, or values by pattern:
            ``{"t": {"features.*": 0.2, "*": 0.5}}``. Of several patterns that match a name the
            first counts; where none does, it is as if nothing were said.
        keep: tensors to take from one model unchanged: ``{"classifier.*": 0}`` keeps the head of
            the first. They may differ in shape or exist in that model alone.
        kinds: correct what a tensor is taken for: ``{"*.scale_buffer": "weight"}``.
        dtype: of weights and statistics in the result (mappings and checkpoints only), or its name.
        allow_nonfinite: let NaN and infinity pass instead of refusing them.
        seed: of random methods.

    Returns:
        What was given: a new module (a copy of the first with its devices, dtypes, modes and
        `requires_grad`), a dict, or a lazy checkpoint (write it with `conjoin.save`).

    Raises:
        InputError, MethodError: an argument cannot be used.
        MismatchError: names, shapes, dtypes, ties or constants differ.
        NonFiniteError: a model, or the result, has NaN or infinity.

    >>> from torch import nn
    >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> merged = merge([a, b])
    >>> torch.equal(merged.weight, (a.weight + b.weight) / 2)
    True
    >>> merged = merge([a, b], lambda tensors: torch.maximum(*tensors), keep={"bias": 0})
    >>> torch.equal(merged.bias, a.bias)
    True
    >>> merged = merge([a, b], "linear", weights={"weight": [3, 1], "*": [0, 1]})
    >>> torch.equal(merged.bias, b.bias)
    True
    """
    given = _as_list(models)
    kind = _one_kind(given if base is None else [*given, base])
    row = _as_method(method)
    choices = Choices.of(weights, parameters, len(given))
    keep = as_mapping(keep, "keep", '{"classifier.*": 0}')
    kinds = as_mapping(kinds, "kinds", '{"*.scale_buffer": "weight"}')
    seed = as_whole(seed, "seed")

    def check(parameters: Mapping[str, Any]) -> None:
        row.check(parameters, base=base is not None, weights=weights is not None, models=len(given))

    check(choices.first())
    result = None if dtype is None else as_dtype(dtype)
    if result is not None and kind is torch.nn.Module:
        raise InputError(
            "dtype= is for files and mappings; for modules call .to(dtype) on the result"
        )
    if kind is torch.nn.Module:
        check_modules(given if base is None else [*given, base])
    sources = [_with_kinds(as_checkpoint(model), kinds) for model in given]
    ancestor = None if base is None else _with_kinds(as_checkpoint(base), kinds)
    tasks = make_tasks(
        sources,
        row,
        base=ancestor,
        kept=kept_names(sources, keep),
        settings=choices.settings(sources, check),
        dtype=result,
    )
    merged = Merged(
        tasks,
        seed=seed,
        allow_nonfinite=allow_nonfinite,
        metadata={"conjoin.method": row.name},
    )
    if kind is Checkpoint:
        return merged
    return _module(given[0], merged) if kind is torch.nn.Module else _values(merged)


def _as_list(models: Any) -> list[Any]:
    if isinstance(models, torch.nn.Module | Mapping | str | os.PathLike):
        raise InputError(f"expected a list of models, got one {type(models).__name__}; pass [a, b]")
    if not isinstance(models, Iterable):
        raise InputError(f"expected a list of models, got {models!r:.200}; pass [a, b]")
    given = list(models)
    if not given:
        raise InputError("expected at least one model, got an empty list")
    return given


def _one_kind(models: Sequence[Any]) -> type:
    kinds: dict[str, type] = {}
    for model in models:
        if isinstance(model, torch.nn.Module):
            kinds["modules"] = torch.nn.Module
        elif isinstance(model, Checkpoint | str | os.PathLike):
            kinds["checkpoints"] = Checkpoint
        elif isinstance(model, Mapping):
            kinds["mappings of tensors"] = dict
        else:
            hint = (
                "; parameters() is a generator, pass the module itself"
                if hasattr(model, "__next__")
                else ""
            )
            raise InputError(
                "a model is a module, a mapping of names to tensors, a checkpoint or a path, "
                f"not {type(model).__name__}{hint}"
            )
    if len(kinds) > 1:
        raise InputError(
            f"the models are of different kinds: {' and '.join(kinds)}; pass one kind, for "
            "instance [a.state_dict(), b] or load the file into a module first"
        )
    return next(iter(kinds.values()))


def _as_method(method: str | Method | Combine) -> Method:
    if isinstance(method, str):
        return find_method(method)
    if isinstance(method, Method):
        return method
    for row in METHODS.values():
        if row.function is method:  # a method, by its function
            return row
    if not callable(method):
        raise InputError(
            f"method is a name, a Method or a function of a list of tensors, not {method!r}"
        )

    def on_copies(tensors: Sequence[Tensor]) -> Any:
        # A function that works in place must not reach into the models.
        return cast(Any, method)([tensor.clone() for tensor in tensors])

    name = getattr(method, "__name__", type(method).__name__)
    return Method(name, on_copies, formula="the caller's function", elementwise=False)


def _with_kinds(checkpoint: Checkpoint, kinds: Mapping[str, Kind | str]) -> Checkpoint:
    if not kinds:
        return checkpoint
    return _Relabelled(checkpoint, kinds)


class _Relabelled(Checkpoint):
    """A checkpoint with the kinds of some tensors corrected."""

    def __init__(self, inner: Checkpoint, kinds: Mapping[str, Kind | str]) -> None:
        self._inner, self._specs = inner, override_kinds(inner.specs, kinds)

    @property
    def specs(self) -> Mapping[str, Any]:
        return self._specs

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        return self._inner.files

    def reads_ranges(self, name: str) -> bool:
        return self._inner.reads_ranges(name)

    def in_file(self, name: str) -> FileRange | None:
        return self._inner.in_file(name)

    def __getitem__(self, name: str) -> Tensor:
        return self._inner[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self._inner.read(name, start, stop)

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        return self._inner.sample(name, start, stop, step)


def _values(merged: Merged) -> dict[str, Tensor]:
    """Compute every tensor once; tied names share it. Nothing is shared with the inputs."""
    values: dict[str, Tensor] = {}
    for name, spec in merged.specs.items():
        if spec.alias_of is None or spec.alias_of not in values:
            values[name] = merged[name].clone()
        else:
            values[name] = values[spec.alias_of]
    return values


def _module(first: nn.Module, merged: Merged) -> nn.Module:
    own = MemoryCheckpoint(first.state_dict())
    for name, spec in merged.specs.items():
        if name not in own.specs or own.specs[name].shape != spec.shape:
            found = list(own.specs[name].shape) if name in own.specs else "no such tensor"
            raise InputError(
                f"the kept tensor {name!r} is {list(spec.shape)}, but the first model, whose "
                f"structure the result has, has {found}; put the model it is kept from first"
            )
    result = copy_of(first)
    result.load_state_dict(_values(merged))
    _tie(result, merged)
    for name in merged.pooled:
        setattr(result.get_submodule(name.rpartition(".")[0]), POOLED, True)
    return result


def _tie(module: nn.Module, merged: Merged) -> None:
    """Tie again what shared memory as two parameters, which deepcopy has separated."""
    for name, spec in merged.specs.items():
        prefix, _, last = name.rpartition(".")
        own = module.get_submodule(prefix)._parameters if spec.alias_of else {}
        if spec.alias_of and last in own:
            own[last] = module.get_parameter(spec.alias_of)
