"""A folder as one checkpoint: the layouts of Hugging Face's libraries, read strictly."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.descriptors import FileRange
from conjoin.checkpoints.file import open_file
from conjoin.checkpoints.layout import Layout, choose_weights, shard_order
from conjoin.checkpoints.names import closest_name
from conjoin.checkpoints.spec import Spec
from conjoin.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Folder", "check_within", "open_folder"]


class Folder(Checkpoint):
    """Several files seen as one checkpoint; made by `open_folder`.

    Args:
        path: of the folder.
        shards: its opened files in order; no two of them have a tensor of one name.
        index: the index, if there is one.
    """

    def __init__(self, path: Path, shards: list[Checkpoint], index: Path | None = None) -> None:
        self._path, self._index = path, index
        self._shards = {name: shard for shard in shards for name in shard.specs}
        self._specs = {name: shard.specs[name] for name, shard in self._shards.items()}
        first, *others = shards
        self._metadata = {
            key: value
            for key, value in first.metadata.items()
            if all(other.metadata.get(key) == value for other in others)
        }
        files = [file for shard in shards for file in shard.files]
        self._files = tuple(files if index is None else [index, *files])

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The entries on which all files agree."""
        return MappingProxyType(self._metadata)

    @property
    def source(self) -> str:
        return str(self._path)

    @property
    def files(self) -> tuple[Path, ...]:
        return self._files

    def __getitem__(self, name: str) -> Tensor:
        self.spec_of(name)
        return self._shards[name][name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        start, stop = self.checked_range(name, start, stop)
        return self._shards[name].read(name, start, stop)

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        self.spec_of(name)
        return self._shards[name].blocks(name, start, stop, size)

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        self.spec_of(name)
        return self._shards[name].sample(name, start, stop, step)

    def reads_ranges(self, name: str) -> bool:
        self.spec_of(name)
        return self._shards[name].reads_ranges(name)

    def in_file(self, name: str) -> FileRange | None:
        self.spec_of(name)
        return self._shards[name].in_file(name)


def open_folder(path: str | os.PathLike[str], *, entry: str | None = None) -> Folder:
    """Open the weights of a folder: one file, or an index with its shards, or shards alone.

    Which files these are is said in `conjoin.checkpoints.layout`. All headers are read; data are
    not, except for shards in the format that torch had before version 1.6. Nothing in the folder is
    executed. An index has to say the truth: every tensor in the shard that it names, no others,
    no shard besides. Files have to lie in the folder; a link may lead out of it only as in the
    cache of the Hub, where `snapshots/REVISION/x` leads to `blobs/DIGEST`.

    Args:
        path: of the folder.
        entry: for torch files in which several entries hold weights: which one.

    Raises:
        CheckpointError: there are no weights or several sets of them, a file is missing or
            damaged, or the index does not fit.
        InputError: `entry` does not fit.

    >>> import tempfile, torch
    >>> from conjoin.checkpoints import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in (1, 2):
    ...         file = Path(folder, f"model-0000{k}-of-00002.safetensors")
    ...         _ = save({f"{k}.bias": torch.zeros(2)}, file)
    ...     list(open_folder(folder))
    ['1.bias', '2.bias']
    """
    path = Path(path)
    try:
        names = [item.name for item in path.iterdir() if not item.is_dir()]
    except OSError as error:
        raise CheckpointError(f"cannot list {path}: {error.strerror or error}") from error
    layout = choose_weights(names, str(path))
    if layout.index is None:
        return Folder(path, _open_shards(path, layout.files, {}, entry))
    index = check_within(path, layout.index)
    weight_map = _read_index(index)
    examples = {file: name for name, file in reversed(weight_map.items())}  # the first of each
    files = _files_of(index, examples, layout)
    shards = _open_shards(path, files, examples, entry)
    _check_index(index, weight_map, dict(zip(files, shards, strict=True)))
    return Folder(path, shards, index)


def check_within(folder: Path, name: str) -> Path:
    """Return the path of a file that has to lie in a folder, or in the Hub's cache beside it.

    Raises:
        CheckpointError: the name or a link leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{str(folder)!r} names the file {name!r}, which is not a path within that folder; "
            "nothing outside a folder is read for it"
        )
    path = folder / name
    root, real = folder.resolve(), path.resolve()
    if real.is_relative_to(root):
        return path
    # In the Hub's cache, models--org--name/snapshots/REVISION/x is a link to ../../blobs/DIGEST.
    for snapshot in (root, *root.parents):
        if snapshot.parent.name == "snapshots" and real.parent == snapshot.parents[1] / "blobs":
            return path
    raise CheckpointError(
        f"{path} is a link to {real}, outside its folder; put the file itself there, or pass the "
        "path that is meant"
    )


def _open_shards(
    folder: Path, files: tuple[str, ...], examples: Mapping[str, str], entry: str | None
) -> list[Checkpoint]:
    shards: list[Checkpoint] = []
    owners: dict[str, str] = {}
    for file in files:
        path = check_within(folder, file)
        if not path.is_file():
            needed = f", which has tensor {examples[file]!r} by the index," if examples else ""
            raise CheckpointError(f"{path}{needed} is missing; copy or download it")
        shard = open_file(path, entry=entry)
        for name in shard.specs:
            first = owners.setdefault(name, file)
            if first != file:
                raise CheckpointError(
                    f"tensor {name!r} is in two files of {folder}: {first} and {file}; keep the "
                    "files of one checkpoint there"
                )
        shards.append(shard)
    return shards


def _read_index(path: Path) -> dict[str, str]:
    """Return which shard has which tensor."""
    try:
        parsed = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the index {path} is not valid JSON: {error}") from error
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"the index {path} has no weight_map, an object that says which file has which tensor"
        )
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(
                f"the index {path} says {file!r} for tensor {name!r}, not the name of a file"
            )
    return weight_map


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _files_of(index: Path, examples: Mapping[str, str], layout: Layout) -> tuple[str, ...]:
    files = tuple(sorted(examples, key=shard_order))
    for file, name in examples.items():
        try:
            check_within(index.parent, file)
        except CheckpointError as error:
            raise CheckpointError(f"the index {index}, for tensor {name!r}: {error}") from None
    unnamed = [file for file in layout.files if file not in files]
    if unnamed:
        raise CheckpointError(
            f"{index.parent} has {unnamed[0]}, which its index {index.name} does not name, so "
            "either may be left from an older result; remove what is old"
        )
    return files


def _check_index(
    index: Path, weight_map: Mapping[str, str], shards: Mapping[str, Checkpoint]
) -> None:
    for name, file in weight_map.items():
        if name not in shards[file]:
            close = closest_name(name, shards[file])
            raise CheckpointError(
                f"the index {index} says that tensor {name!r} is in {file}, which lacks it"
                + ("" if close is None else f" (closest: {close!r})")
                + "; the files are not of one checkpoint, or incomplete"
            )
    for file, shard in shards.items():
        for name, spec in shard.specs.items():
            # A name that the file's metadata tie to another has no data for an index to find.
            if weight_map.get(name) != file and spec.alias_of is None:
                raise CheckpointError(
                    f"tensor {name!r} is in {shard.source}, but the index {index} does not name "
                    "it there; the files are not of one checkpoint"
                )
