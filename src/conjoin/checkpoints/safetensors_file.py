"""A safetensors file as a checkpoint, of which only what is asked for is read."""

from __future__ import annotations

import io
import json
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conjoin.checkpoints.checkpoint import Checkpoint, cut_at_multiples
from conjoin.checkpoints.descriptors import FileRange, KnownFile, read_into
from conjoin.checkpoints.foreign import explain_foreign
from conjoin.checkpoints.safetensors_header import Entry, read_header
from conjoin.checkpoints.spec import Spec, kind_by_name
from conjoin.deferred import torch
from conjoin.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ORDER_KEY", "SafetensorsFile", "find_aliases"]

# Where the writer keeps the order of all names, if some of them are aliases.
ORDER_KEY = "conjoin.order"


class SafetensorsFile(Checkpoint):
    """A safetensors file, opened lazily and never changed.

    `checkpoint[name]` is a view of the file in memory (zero-copy, by private pages: changing the
    tensor would not change the file). `read` copies a range and touches those bytes only, which
    keeps the memory of a process that streams through a large file small. The file is open only
    while a view of it lives, or within `files_kept_open`; when it is changed, or is another file
    when it is opened again, it is refused.

    Tied tensors, which the format cannot hold, are known by metadata {removed name: kept name},
    as `safetensors.torch.save_model` writes it, and appear with `alias_of`.

    Raises:
        CheckpointError: the file is missing, unreadable or malformed.

    >>> import tempfile
    >>> from conjoin.checkpoints import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save({"fc.bias": torch.arange(3.0)}, Path(folder, "model.safetensors"))
    ...     checkpoint = SafetensorsFile(path)
    ...     checkpoint.read("fc.bias", 1, 3)
    tensor([1., 2.])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            with self._path.open("rb") as file:
                self._file = KnownFile.of(self._path, file)
                foreign = explain_foreign(file.read(64))
                if foreign is not None:
                    raise CheckpointError(f"{path} is no safetensors file: {foreign}")
                file.seek(0)
                header = read_header(file, os.fstat(file.fileno()).st_size, str(path))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        self._entries = header.entries
        self._map: weakref.ref[mmap.mmap] | None = None
        aliases = find_aliases(header.metadata, header.entries)
        self._metadata = MappingProxyType(
            {
                key: value
                for key, value in header.metadata.items()
                if key not in aliases and key != ORDER_KEY
            }
        )
        self._specs = {}
        for name in _order_of_names(header.metadata, header.entries, aliases):
            kept = aliases.get(name)
            entry = header.entries[kept or name]
            kind = kind_by_name(kept or name, entry.dtype, entry.shape)
            self._specs[name] = Spec(entry.shape, entry.dtype, kind, kept, str(path))

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    @property
    def source(self) -> str:
        return str(self._path)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._path,)

    def in_file(self, name: str) -> FileRange | None:
        entry = self._entry(name)
        return FileRange(self._file, entry.begin, entry.end)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path,)  # a worker process opens and maps the file itself

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entry(name)
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=entry.dtype.torch)
        mapped = self._mapped()
        if mapped is None:
            return self.read(name).reshape(entry.shape)
        nbytes = entry.end - entry.begin
        raw = torch.frombuffer(mapped, dtype=torch.uint8, count=nbytes, offset=entry.begin)
        if entry.begin % entry.dtype.itemsize:
            raw = raw.clone()  # torch's kernels may assume aligned elements; a copy is aligned
        return raw.view(entry.dtype.torch).reshape(entry.shape)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        start, stop = self.checked_range(name, start, stop)
        entry = self._entry(name)
        out = torch.empty(stop - start, dtype=entry.dtype.torch)
        target = out.view(torch.uint8).numpy().data
        with self._file.opened() as file:
            self._file.check(file)
            self._read_into(file, target, entry, start, name)
        return out

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        start, stop = self.checked_range(name, start, stop)
        entry = self._entry(name)
        most, itemsize = min(size, stop - start), entry.dtype.itemsize
        room = torch.empty(most, dtype=entry.dtype.torch)
        target = room.view(torch.uint8).numpy().data
        last = None
        for begin, end in cut_at_multiples(start, stop, size):
            count = end - begin
            # Not held open between blocks, but by `files_kept_open`: there may be many models.
            with self._file.opened() as file:
                if file is not last:
                    self._file.check(file)
                self._read_into(file, target[: count * itemsize], entry, begin, name)
                if end == stop:
                    self._file.check(file)
                last = file
            yield room if count == most else room[:count]

    def _read_into(
        self, file: io.FileIO, target: memoryview, entry: Entry, start: int, name: str
    ) -> None:
        if not read_into(file, target, entry.begin + start * entry.dtype.itemsize):
            self._file.check(file)
            raise CheckpointError(f"{self._path} ends within tensor {name!r}")

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        start, stop = self.checked_range(name, start, stop)
        entry = self._entry(name)
        if start == stop or entry.begin % entry.dtype.itemsize or self._mapped() is None:
            return super().sample(name, start, stop, step)
        # Only what is taken is looked at, so that this costs little more than what it gives.
        return self[name].reshape(-1)[start:stop:step].clone()

    def _entry(self, name: str) -> Entry:
        return self._entries[self.spec_of(name).alias_of or name]

    def _mapped(self) -> mmap.mmap | None:
        # The tensors own the map, and this object only finds it again: a program that goes through
        # a large file one tensor at a time gives the pages back, and keeps no file open. Two
        # threads may both find none and map the file twice: each tensor owns the map it lies in.
        mapped = None if self._map is None else self._map()
        if mapped is None:
            with self._file.opened() as file:
                self._file.check(file)
                try:
                    mapped = _map_privately(file.fileno())
                except OSError:
                    return None  # no address space, or no mapping on this file system: read instead
            self._map = weakref.ref(mapped)
        return mapped


def _map_privately(descriptor: int) -> mmap.mmap:
    # Private and writable: torch accepts the buffer without a warning, writes stay in memory.
    # Linux refuses a private writable map larger than memory unless told not to reserve for it.
    no_reserve = getattr(mmap, "MAP_NORESERVE", None)
    if no_reserve is None:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    return mmap.mmap(
        descriptor,
        0,
        flags=mmap.MAP_PRIVATE | no_reserve,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
    )


def find_aliases(metadata: Mapping[str, str], names: Mapping[str, object]) -> dict[str, str]:
    """Return the metadata entries that say {removed name: kept name}.

    >>> find_aliases({"format": "pt", "decoder.weight": "encoder.weight"}, {"encoder.weight": 0})
    {'decoder.weight': 'encoder.weight'}
    """
    return {
        key: value
        for key, value in metadata.items()
        if value in names and key not in names and key not in ("format", ORDER_KEY)
    }


def _order_of_names(
    metadata: Mapping[str, str], entries: Mapping[str, Entry], aliases: Mapping[str, str]
) -> list[str]:
    plain = [*entries, *aliases]
    try:
        order = json.loads(metadata.get(ORDER_KEY, "null"))
    except (ValueError, RecursionError):
        return plain
    # Another program may have changed the tensors and kept the metadata: an order that does not
    # fit says nothing, and neither does one in which a name would stand before what it is tied to.
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        return plain
    place = {name: i for i, name in enumerate(order)}
    fits = len(order) == len(plain) and place.keys() == set(plain)
    if fits and all(place[kept] < place[name] for name, kept in aliases.items()):
        return order
    return plain
