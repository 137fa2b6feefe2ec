"""Merges to be written, in small blocks, and what a folder holds afterwards."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from conjoin.checkpoints import Checkpoint, MemoryCheckpoint, open_checkpoint, save
from conjoin.merging import Merged, Settings, make_tasks
from conjoin.methods import METHODS, Method, Need
from conjoin.methods.reductions import sum_of
from conjoin.streaming import Done, Ranks, allocate, cut_into_jobs, lay_out, run_place
from conjoin.streaming import write_tensors as write_all

BLOCK = 64
"""Elements of a block within `small_blocks`; a job has two, a piece of a summary four."""


some = settings(deadline=None, max_examples=30)
few = settings(deadline=None, max_examples=25)


@contextmanager
def small_blocks() -> Iterator[None]:
    """Blocks so small that tensors of a few hundred elements have many, and are several jobs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("blocks", "merged", "summaries", "over_files"):
            name = f"merging.{name}"
            patch.setattr(importlib.import_module(f"conjoin.{name}"), "BLOCK", BLOCK)
        for name in ("streaming.noted", "streaming.running"):
            patch.setattr(importlib.import_module(f"conjoin.{name}"), "BLOCK", BLOCK)
        patch.setattr(importlib.import_module("conjoin.merging.summaries"), "_PIECE", 4 * BLOCK)
        patch.setattr(importlib.import_module("conjoin.streaming.jobs"), "SPAN", 2 * BLOCK)
        yield


def centred(tensors: Sequence[Tensor]) -> Tensor:
    """The first tensor without its mean: a method that needs whole tensors."""
    return tensors[0] - (sum_of(tensors[0].real) / max(1, tensors[0].numel())).to(tensors[0].dtype)


def noisy(tensors: Sequence[Tensor], *, generator: torch.Generator) -> Tensor:
    """The first tensor and noise: a random method."""
    first = tensors[0]
    return first + torch.rand(first.shape, generator=generator, dtype=torch.float64).to(first.dtype)


WHOLE = Method("centred", centred, "w_1 - mean(w_1)", elementwise=False)
RANDOM = Method("noisy", noisy, "w_1 + noise")
ANY = [METHODS["mean"], METHODS["linear"], WHOLE, RANDOM]
"""Methods of tensors of any dtype."""
REAL = [
    row
    for row in METHODS.values()
    if row.name not in ("sum", "mean", "linear", "passthrough") and Need.STATISTICS not in row.needs
]
"""The others, whose tensors have to be real; most look at whole tensors, or the model, first."""


def merged_of(
    models: Sequence[Checkpoint],
    method: Method | str = "mean",
    *,
    weights: Sequence[float] | None = None,
    parameters: Mapping[str, object] | None = None,
    kept: Mapping[str, int] | None = None,
    dtype: torch.dtype | None = None,
    allow_nonfinite: bool = False,
    seed: int = 0,
) -> Merged:
    """A merge; the last model is the base of a method that has one."""
    row = METHODS[method] if isinstance(method, str) else method
    everyone = list(models)
    base = everyone.pop() if Need.BASE in row.needs else None
    given = Settings(None if weights is None else tuple(weights), parameters or {})
    tasks = make_tasks(
        everyone[: row.models],
        row,
        base=base,
        kept=kept or {},
        settings=lambda name: given,
        dtype=dtype,
    )
    return Merged(tasks, seed=seed, allow_nonfinite=allow_nonfinite)


def write(
    merged: Merged,
    out: Path,
    *,
    shard_bytes: int | None = None,
    threads: int = 2,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    single: str | None = None,
) -> dict[int, Done]:
    """All steps from a merge to a result, as a run takes them."""
    layout = lay_out(
        merged.specs,
        merged.metadata,
        shard_bytes=shard_bytes,
        name=single or "model.safetensors",
    )
    jobs = cut_into_jobs(layout, merged)
    with run_place(out) as place:
        place.begin()
        allocate(place, layout)
        done = write_all(merged, layout, jobs, place, ranks=ranks, threads=threads)
        place.finish(overwrite=overwrite, single=single, sync=False)
    return done


def filled(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers around 1 of a floating dtype, of which every other is negative or so."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex64 if dtype.is_complex else torch.float64
    return torch.randn(tuple(shape), generator=generator, dtype=wide).to(dtype)


def in_memory(state: Mapping[str, Tensor]) -> Checkpoint:
    return MemoryCheckpoint(dict(state))


def on_disk(state: Mapping[str, Tensor], path: Path) -> Checkpoint:
    return open_checkpoint(save(dict(state), path, overwrite=True))


def bits(tensor: Tensor) -> tuple[object, ...]:
    """Everything about a tensor, comparable: NaNs equal themselves, and -0.0 differs from 0.0."""
    flat = tensor.detach().resolve_conj().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return tuple(tensor.shape), tensor.dtype, data


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, or the one file, with its content."""
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }
