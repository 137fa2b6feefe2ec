"""Blocks of tensors: read, brought to the dtype of the arithmetic, and checked.

A method sees blocks, of at most BLOCK elements that follow each other in a tensor, which begin
at multiples of BLOCK. That is a part of what a merge means, and not a setting: sums are made
block after block, and random numbers are drawn for a block, so that results have the same bits
however a tensor is cut into pieces of work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from conjoin.checkpoints import cut_at_multiples
from conjoin.deferred import torch
from conjoin.errors import CheckpointError, MismatchError, NonFiniteError
from conjoin.merging.task import Source, Task, working_dtype

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BLOCK",
    "Held",
    "block_generator",
    "blocks_of",
    "check_finite",
    "hold",
    "read_blocks",
    "read_inputs",
    "read_source",
]

BLOCK = 1 << 18
"""Elements: a megabyte of float32, so that what is made of a few of them stays in the cache."""


def blocks_of(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the multiples of BLOCK.

    >>> list(blocks_of(5, BLOCK + 1)) == [(5, BLOCK), (BLOCK, BLOCK + 1)]
    True
    """
    return cut_at_multiples(start, stop, BLOCK)


def block_generator(seed: int, name: str, start: int) -> torch.Generator:
    """Give the generator of the block of a tensor that begins at the element `start`."""
    # From these alone: order, resuming and parallel work never change a bit.
    digest = hashlib.sha256(f"{seed}/{name}/{start // BLOCK}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


Held: TypeAlias = "Mapping[Source, Tensor]"
"""Tensors that were fetched whole, flat, since ranges of them cost as much as all."""


def hold(sources: Sequence[Source]) -> Held:
    """Fetch those of some tensors that cannot be had in parts."""
    return {
        source: source.checkpoint[source.name].reshape(-1)
        for source in sources
        if not source.checkpoint.reads_ranges(source.name)
    }


def read_blocks(
    sources: Sequence[Source], start: int, stop: int, held: Held
) -> Iterator[tuple[tuple[int, int], list[Tensor]]]:
    """Read the blocks of a range of some tensors, each with its first and last + 1 element.

    What is yielded is valid until the next block is asked for.
    """
    streams = [_stream(source, start, stop, held) for source in sources]
    for span in blocks_of(start, stop):
        yield span, [next(stream) for stream in streams]


def _stream(source: Source, start: int, stop: int, held: Held) -> Iterator[Tensor]:
    if source in held:
        return (held[source][begin:end] for begin, end in blocks_of(start, stop))
    return source.checkpoint.blocks(source.name, start, stop, BLOCK)


def read_inputs(
    task: Task,
    sources: Sequence[Source],
    span: tuple[int, int] | None,
    *,
    finite: bool,
    held: Held = MappingProxyType({}),
    step: int = 1,
) -> list[Tensor]:
    """Read a flat range (None: the whole, in its shape) of sources, in the working dtype.

    Args:
        task: that they are of.
        sources: of one shape.
        span: first and last + 1 element.
        finite: refuse NaN and infinity.
        held: what has been fetched already.
        step: of the range, every `step`-th element, from the first on.

    Raises:
        NonFiniteError: there are some.
        CheckpointError: some have data, some are on the meta device.
        MismatchError: one of the names of a tie holds something else than the other.
    """
    raw = [read_source(source, span, held, step) for source in sources]
    for source, tensor in zip(sources, raw, strict=True):
        if tensor.is_meta != raw[0].is_meta:
            empty = source if tensor.is_meta else sources[0]
            raise CheckpointError(
                f"{empty.name!r} of {empty} is on the meta device and has no data; load its "
                "weights first"
            )
    _check_twins(task, sources, raw, span, step)
    tensors = [tensor.to(raw[0].device, task.working.torch) for tensor in raw]
    if finite:
        for source, tensor in zip(sources, tensors, strict=True):
            check_finite(tensor, source)
    return tensors


def read_source(
    source: Source,
    span: tuple[int, int] | None,
    held: Held = MappingProxyType({}),
    step: int = 1,
) -> Tensor:
    """Read a flat range of a tensor (None: the whole, in its shape), in its own dtype."""
    if span is None:
        return source.checkpoint[source.name]
    if source in held:
        return held[source][span[0] : span[1] : step]
    if step > 1:
        return source.checkpoint.sample(source.name, *span, step)
    return source.checkpoint.read(source.name, *span)


def _check_twins(
    task: Task,
    sources: Sequence[Source],
    raw: Sequence[Tensor],
    span: tuple[int, int] | None,
    step: int,
) -> None:
    for twin in task.twins:
        for source, tensor in zip(sources, raw, strict=True):
            if source.checkpoint is not twin.checkpoint or tensor.is_meta:
                continue
            if not torch.equal(read_source(twin, span, step=step).to(tensor.device), tensor):
                raise MismatchError(
                    f"{twin.name!r} and {source.name!r} are one tensor in the first model, but "
                    f"differ in {source}; untie the first, or tie the second"
                )


def check_finite(tensor: Tensor, where: Source | str, name: str | None = None) -> None:
    """Raise if a tensor has NaN or infinity.

    Args:
        tensor: of a dtype that can be summed up.
        where: the source that it is a part of, whose values are counted for the message; or what
            to call it, with its `name`.
        name: of the tensor.

    Raises:
        NonFiniteError: it has.
    """
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return
    # A sum is a hundred times faster than isfinite, and NaN and infinity always reach it. It may
    # overflow without them; then the slow way decides.
    # A sum of halves overflows soon; that of other dtypes is faster without another dtype.
    dtype = torch.float32 if tensor.dtype == torch.float16 else None
    total = tensor.sum(dtype=dtype).item()
    if math.isfinite(total.real) and math.isfinite(total.imag):
        return
    if torch.isfinite(tensor).all():
        return
    if isinstance(where, Source):
        name, tensor = where.name, where.checkpoint[where.name]
        tensor = tensor.to(working_dtype([tensor.dtype]).torch)
    finite = torch.isfinite(tensor)
    nans = int(torch.isnan(tensor).sum())
    infinite = int((~finite).sum()) - nans
    raise NonFiniteError(
        f"{name!r} of {where} has {nans} NaN and {infinite} infinite among {tensor.numel()} "
        "values; mend or leave out that model, or pass allow_nonfinite=True"
    )
