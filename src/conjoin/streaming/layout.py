"""Where every byte of a result will stand, from its specs alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from conjoin.checkpoints import Spec
from conjoin.checkpoints.writer import safetensors_header
from conjoin.errors import InputError

__all__ = ["INDEX", "File", "Layout", "lay_out"]

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class File:
    """One safetensors file of a result.

    Args:
        name: without a folder.
        header: its first bytes.
        offsets: tensor -> where its data begin, in bytes from the start of the file.
        size: in bytes.
    """

    name: str
    header: bytes
    offsets: Mapping[str, int]
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All files of a result.

    Args:
        files: in the order of their tensors.
        index: the content of `INDEX`, if there is more than one file.
    """

    files: tuple[File, ...]
    index: bytes | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def lay_out(
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str],
    *,
    shard_bytes: int | None = None,
    name: str = "model.safetensors",
) -> Layout:
    """Divide tensors among files, in their order.

    Args:
        specs: of the result; second names of ties are noted beside the tensor that they mean.
        metadata: strings for every file.
        shard_bytes: at most so many bytes of tensors in a file, but one tensor at least; None
            puts all into one.
        name: of the only file. More are called ``model-00001-of-00003.safetensors``.

    >>> import torch
    >>> from conjoin.checkpoints import Kind
    >>> specs = {n: Spec((4,), torch.float32, Kind.WEIGHT) for n in "abc"}
    >>> [(file.name, list(file.offsets)) for file in lay_out(specs, {}, shard_bytes=40).files]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('model-00001-of-00002.safetensors', ['a', 'b']),
     ('model-00002-of-00002.safetensors', ['c'])]
    """
    if shard_bytes is not None and shard_bytes <= 0:
        raise InputError(f"the size of a shard is a number of bytes above 0, not {shard_bytes}")
    groups = _groups(specs, shard_bytes)
    files = []
    for number, group in enumerate(groups, start=1):
        title = name if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        files.append(_file(title, group, metadata))
    if len(files) == 1:
        return Layout(tuple(files), None)
    index = {
        "metadata": {"total_size": sum(_own_bytes(group) for group in groups)},
        "weight_map": {n: file.name for file in files for n in sorted(file.offsets)},
    }
    return Layout(tuple(files), json.dumps(index, indent=2).encode() + b"\n")


def _groups(specs: Mapping[str, Spec], shard_bytes: int | None) -> list[dict[str, Spec]]:
    place: dict[str, int] = {}
    groups: list[dict[str, Spec]] = [{}]
    filled = 0
    for name, spec in specs.items():
        if spec.alias_of is not None:
            continue
        if shard_bytes is not None and filled and filled + spec.nbytes > shard_bytes:
            groups.append({})
            filled = 0
        filled += spec.nbytes
        place[name] = len(groups) - 1
        groups[-1][name] = spec
    for name, spec in specs.items():
        if spec.alias_of is not None:
            groups[place[spec.alias_of]][name] = spec
    return groups


def _file(title: str, group: Mapping[str, Spec], metadata: Mapping[str, str]) -> File:
    header, order = safetensors_header(group, metadata)
    reached, offsets = len(header), {}
    for name in order:
        offsets[name] = reached
        reached += group[name].nbytes
    return File(title, header, offsets, reached)


def _own_bytes(group: Mapping[str, Spec]) -> int:
    return sum(spec.nbytes for spec in group.values() if spec.alias_of is None)
