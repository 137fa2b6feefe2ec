"""What is to be done for one tensor of a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from conjoin.checkpoints import Checkpoint, Kind, Spec
from conjoin.deferred import torch
from conjoin.dtypes import FLOAT32, FLOAT64, DType, dtype_of, promoted
from conjoin.merging.agreement import agree, check_plain
from conjoin.methods import METHODS, Method

__all__ = ["Rule", "Settings", "Source", "Task", "make_tasks", "may_be_compiled", "working_dtype"]


class Rule(StrEnum):
    """How a tensor comes from those of the models."""

    METHOD = "method"
    """By a method of merging, in float32 (float64 and complex stay)."""
    POOL = "pool"
    """Running statistics, with shares s_i = |a_i| / sum |a|: mean = sum s_i m_i, and
    var = sum s_i (v_i + (m_i - mean)^2), which is never negative."""
    MAXIMUM = "maximum"
    """A counter: the largest."""
    AGREE = "agree"
    """A constant, which has to be the same in all models."""
    COPY = "copy"
    """Taken from one model as it is."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of one of the models.

    Args:
        model: number of the model among those that are merged, for messages.
        checkpoint: the model.
        name: of the tensor, there.
    """

    model: int
    checkpoint: Checkpoint
    name: str

    @property
    def spec(self) -> Spec:
        """What the model's header says of the tensor."""
        return self.checkpoint.specs[self.name]

    def __str__(self) -> str:
        return f"model {self.model} ({self.checkpoint.source})"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a method is given for one tensor, besides tensors.

    Args:
        weights: one number per model, or None for equal ones.
        parameters: of the method, by name.
    """

    weights: tuple[float, ...] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """One tensor of the result: where it comes from, and how.

    Args:
        spec: of the result. With an `alias_of`, nothing is computed: it is that tensor.
        rule: see `Rule`.
        sources: the tensors that are merged, in the order of the models.
        base: that of the common ancestor.
        method: of `Rule.METHOD`.
        settings: of the method; its weights also give the shares of statistics.
        working: dtype of the arithmetic.
        twins: tensors that have to hold the same as the source of their model: second names of
            a tie that the result has, and that this model keeps apart.
    """

    spec: Spec
    rule: Rule
    sources: tuple[Source, ...]
    base: Source | None = None
    method: Method | None = None
    settings: Settings = Settings()
    working: DType = FLOAT32
    twins: tuple[Source, ...] = ()

    @property
    def inputs(self) -> tuple[Source, ...]:
        """All that is read: the sources, then the base."""
        return self.sources if self.base is None else (*self.sources, self.base)

    @property
    def in_blocks(self) -> bool:
        """Whether a part of the result needs no more than the same part of the sources."""
        return self.rule is not Rule.METHOD or (
            self.method is not None and self.method.in_blocks(self.settings.parameters)
        )

    @property
    def summarized(self) -> bool:
        """Whether the method looks at all of its tensors before it makes one."""
        return self.method is not None and self.method.summarize is not None


def make_tasks(
    models: Sequence[Checkpoint],
    method: Method,
    *,
    base: Checkpoint | None,
    kept: Mapping[str, int],
    settings: Callable[[str], Settings],
    dtype: torch.dtype | DType | None = None,
    working: torch.dtype | DType | None = None,
) -> dict[str, Task]:
    """Give the task of every tensor of a merge, from headers alone.

    Args:
        models: checkpoints of one structure.
        method: of merging.
        base: the common ancestor, for methods that use it.
        kept: name -> number of the model that it is taken from unchanged; that of the base is the
            number of models.
        settings: name -> what the method is given for it.
        dtype: of weights and statistics in the result; None keeps that of the models.
        working: dtype of the arithmetic; None is float32, or float64 and complex where a model is.

    Raises:
        MismatchError: the models do not fit together.
        InputError: weights are stored as parts of which they are computed.
    """
    everyone = [*models] if base is None else [*models, base]
    specs = agree(everyone, kept, dtype)
    if len(everyone) > 1:
        check_plain(specs, kept)
    tasks = {}
    for name, spec in specs.items():
        if name in kept:
            number = kept[name]
            tasks[name] = Task(spec, Rule.COPY, (Source(number, everyone[number], name),))
            continue
        found = spec.alias_of or name
        sources = tuple(Source(number, model, found) for number, model in enumerate(models))
        rule = _RULES[spec.kind]
        ancestor = None
        if rule is Rule.METHOD and base is not None:
            ancestor = Source(len(models), base, found)
        inputs = sources if ancestor is None else (*sources, ancestor)
        tasks[name] = Task(
            spec,
            rule,
            sources,
            base=ancestor,
            method=method if rule is Rule.METHOD else None,
            settings=settings(found),
            working=working_dtype([source.spec.stored for source in inputs], working),
            twins=_twins(everyone, specs, name),
        )
    return tasks


_RULES = {
    Kind.WEIGHT: Rule.METHOD,
    Kind.STATISTIC: Rule.POOL,
    Kind.COUNTER: Rule.MAXIMUM,
    Kind.CONSTANT: Rule.AGREE,
}


def _twins(
    models: Sequence[Checkpoint], specs: Mapping[str, Spec], name: str
) -> tuple[Source, ...]:
    if specs[name].alias_of is not None:
        return ()
    tied = [other for other, spec in specs.items() if spec.alias_of == name]
    return tuple(
        Source(number, model, other)
        for number, model in enumerate(models)
        for other in tied
        if other in model.specs and _root(model, other) != _root(model, name)
    )


def _root(model: Checkpoint, name: str) -> str:
    return model.specs[name].alias_of or name


def may_be_compiled(task: Task) -> bool:
    """Say whether a compiled program may stand for the method of a task.

    That has float32 only. And only functions in the table are known to be pure: one of a user's
    may look at numbers in NumPy, or remember what it has seen.
    """
    method = task.method
    return (
        method is not None
        and METHODS.get(method.name) is method
        and task.working == FLOAT32
        and not task.twins  # they are looked at where tensors are read for torch
    )


def working_dtype(
    dtypes: Sequence[torch.dtype | DType], least: torch.dtype | DType | None = None
) -> DType:
    """Give the dtype in which tensors of these dtypes are merged.

    >>> working_dtype([torch.bfloat16, torch.float8_e5m2]).torch
    torch.float32
    >>> working_dtype([torch.float16, torch.float64]).torch
    torch.float64
    """
    found = FLOAT32 if least is None else dtype_of(least)
    for dtype in map(dtype_of, dtypes):
        if dtype.is_complex or dtype == FLOAT64:
            found = promoted(found, dtype)
    return found
