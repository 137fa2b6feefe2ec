"""Writing checkpoints to files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from conjoin.atomic import atomic_file, check_target
from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.open import as_checkpoint
from conjoin.checkpoints.safetensors_file import ORDER_KEY, find_aliases
from conjoin.checkpoints.safetensors_header import format_header
from conjoin.checkpoints.spec import Spec
from conjoin.deferred import torch
from conjoin.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["safetensors_header", "save"]

_PIECE = 1 << 24
"""Elements of a tensor that are in memory at a time, where parts of it can be had."""

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def save(
    obj: Checkpoint | Mapping[str, Tensor] | nn.Module,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write named tensors to a file, all of it or nothing.

    A `.safetensors` file is streamed: the header is made from the specs alone, then one tensor
    at a time is asked for, so that memory holds one tensor whatever the size of the checkpoint.
    Tied tensors are written once and restored by `open_checkpoint`. A `.pt`, `.pth`, `.bin` or
    `.ckpt` file holds the dict {name: tensor} of `torch.save`, which is made in memory.

    Args:
        obj: what to save.
        path: the file to be; its suffix chooses the format.
        overwrite: whether a file may be replaced.
        metadata: strings to store beside those that the checkpoint has (safetensors only).

    Returns:
        The path.

    Raises:
        InputError: the suffix is unknown, the folder is missing, or metadata cannot be stored.
        OutputExistsError: the file exists and is not to be overwritten; no tensor was read.
        CheckpointError: a tensor cannot be stored, or is not what its spec says.

    >>> from torch import nn
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(nn.Linear(2, 1), Path(folder, "linear.safetensors"))
    ...     print(list(as_checkpoint(path)))
    ['weight', 'bias']
    """
    path = Path(path)
    as_torch = path.suffix in _TORCH_SUFFIXES
    if not as_torch and path.suffix != ".safetensors":
        known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
        raise InputError(f"cannot tell the format of {path} by its suffix; use one of {known}")
    if as_torch and metadata:
        raise InputError(f"a torch file such as {path} has no place for metadata; use .safetensors")
    check_target(path, overwrite=overwrite)
    checkpoint = as_checkpoint(obj)
    _check_specs(checkpoint)
    if as_torch:
        with atomic_file(path, overwrite=overwrite) as file:
            torch.save(_tensors_for_torch(checkpoint), file)
    else:
        header, order = safetensors_header(
            checkpoint.specs, {**checkpoint.metadata, **(metadata or {})}
        )
        with atomic_file(path, overwrite=overwrite) as file:
            file.write(header)
            for name in order:
                _write_tensor(file, checkpoint, name)
    return path


def _check_specs(checkpoint: Checkpoint) -> None:
    for name, spec in checkpoint.specs.items():
        if spec.alias_of is None:
            continue
        kept = checkpoint.specs.get(spec.alias_of)
        if kept is None or kept.alias_of is not None:
            raise CheckpointError(
                f"{name!r} in {checkpoint.source} is said to be tied to {spec.alias_of!r}, "
                "which is " + ("missing" if kept is None else f"itself tied to {kept.alias_of!r}")
            )
        if (kept.shape, kept.stored) != (spec.shape, spec.stored):
            raise CheckpointError(
                f"{name!r} in {checkpoint.source} is {spec.shape} {spec.stored}, and "
                f"{spec.alias_of!r}, to which it is tied, is {kept.shape} {kept.stored}"
            )


def safetensors_header(
    tensors: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[bytes, tuple[str, ...]]:
    """Return the first bytes of a file of these tensors, and the order in which the data follow.

    Ties are written as metadata {second name: first name}.

    Raises:
        InputError: metadata that are no strings, or that would be read as ties.
        CheckpointError: a name or dtype cannot be stored.
    """
    specs = {name: spec for name, spec in tensors.items() if spec.alias_of is None}
    aliases = {name: spec.alias_of for name, spec in tensors.items() if spec.alias_of is not None}
    strings = {**metadata, "format": "pt"}
    strings.pop(ORDER_KEY, None)
    for key, value in strings.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(f"metadata are strings; got {key!r}: {value!r}")
    # Such an entry would be read as a tie, or as none; see `find_aliases`.
    confused = {*find_aliases(strings, specs), *(strings.keys() & aliases.keys())}
    if confused:
        raise InputError(
            f"the metadata entries {sorted(confused)} have a tensor's name as key or value, which "
            "is how safetensors files mark tied tensors; rename the entries, or the tied tensors"
        )
    if aliases:
        strings |= aliases
        strings[ORDER_KEY] = json.dumps(list(tensors), ensure_ascii=False)
    return format_header(specs, strings)


def _write_tensor(file: BinaryIO, checkpoint: Checkpoint, name: str) -> None:
    spec = checkpoint.specs[name]
    if spec.numel > _PIECE and checkpoint.reads_ranges(name):
        for start in range(0, spec.numel, _PIECE):
            piece = checkpoint.read(name, start, min(start + _PIECE, spec.numel))
            _write_values(
                file, _stored(piece, replace(spec, shape=tuple(piece.shape)), checkpoint, name)
            )
        return
    _write_values(file, _plain(checkpoint, name))


def _write_values(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel():
        # Bytes, since NumPy lacks bfloat16 and the 8-bit floats.
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _plain(checkpoint: Checkpoint, name: str) -> Tensor:
    """The tensor as it is stored: detached, on the CPU, contiguous, without lazy bits."""
    return _stored(checkpoint[name], checkpoint.specs[name], checkpoint, name)


def _stored(tensor: Tensor, spec: Spec, checkpoint: Checkpoint, name: str) -> Tensor:
    if (tuple(tensor.shape), tensor.dtype) != (spec.shape, spec.dtype):
        raise CheckpointError(
            f"{name!r} in {_where(checkpoint, spec)} came out as {tuple(tensor.shape)} "
            f"{tensor.dtype}, but its spec says {spec.shape} {spec.dtype}"
        )
    if tensor.is_meta:
        raise CheckpointError(
            f"{name!r} in {_where(checkpoint, spec)} is on the meta device and has no data; load "
            "or initialize the model before it is saved"
        )
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _where(checkpoint: Checkpoint, spec: Spec) -> str:
    return spec.source or checkpoint.source


def _tensors_for_torch(checkpoint: Checkpoint) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, spec in checkpoint.specs.items():
        if spec.alias_of is not None:
            continue
        tensor = _plain(checkpoint, name)
        if tensor.untyped_storage().nbytes() != spec.nbytes:
            tensor = tensor.clone()  # torch.save would store all that this is a view of
        tensors[name] = tensor
    # The same object under both names: torch.save keeps that by sharing the storage.
    return {name: tensors[spec.alias_of or name] for name, spec in checkpoint.specs.items()}
