"""A merge written to the disk: in parts, by all cores, and so that it can be gone on with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from conjoin.atomic import write_bytes
from conjoin.checkpoints import MemoryCheckpoint, files_kept_open, open_checkpoint, save
from conjoin.compiled import Stretch
from conjoin.deferred import torch
from conjoin.errors import CheckpointError, StageError
from conjoin.merging import BLOCK, Merged
from conjoin.streaming.ahead import ReadAhead
from conjoin.streaming.jobs import Job, share_of
from conjoin.streaming.journal import Done, Journal, read_journals
from conjoin.streaming.layout import INDEX, Layout
from conjoin.streaming.noted import NotedCheckpoint, RawBytes, raw_bytes
from conjoin.streaming.place import Place
from conjoin.streaming.pool import Pool, default_threads
from conjoin.streaming.ranks import Everyone, Ranks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Progress", "allocate", "write_tensors"]

_SUMMARIES = "summaries.safetensors"
_DIGEST = "xxh3"

_WRITTEN_AT_ONCE = 1 << 20
"""Bytes. Linux spent 3.1 s on arcee_fusion of 1 billion parameters with whole tensors (on a virtual
machine, perhaps since it takes larger pages for them), and 1.2 to 1.9 s with such pieces."""

Progress = Callable[[int, int], None]
"""Is called with the bytes of the result that are done, and with all of them."""


def allocate(place: Place, layout: Layout) -> None:
    """Create the files of a result at their full size, so that a full disk is known at once.

    Raises:
        OSError: there is no room; what was created is removed.
    """
    made: list[Path] = []
    try:
        for file in layout.files:
            path = place.result / file.name
            made.append(path)
            with path.open("xb") as opened:
                opened.write(file.header)
                opened.flush()
                _reserve(opened.fileno(), file.size)
        if layout.index is not None:
            path = place.result / INDEX
            made.append(path)
            path.write_bytes(layout.index)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        error.add_note(f"the result takes {layout.size:,} bytes in {place.out.parent}")
        raise


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def write_tensors(
    merged: Merged,
    layout: Layout,
    jobs: Sequence[Job],
    place: Place,
    *,
    ranks: Ranks | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[int, Done]:
    """Make every tensor and write it to its place; what a journal says is done is not done again.

    Args:
        merged: the merge.
        layout: of the files, which exist (`allocate`).
        jobs: all of them (`cut_into_jobs`).
        place: of the result.
        ranks: this process among those of the run.
        threads: of this process; None is one for each core.
        progress: is told how far it is, about ten times a second.

    Returns:
        What every job has read and written, by its number.

    Raises:
        NonFiniteError, MismatchError, CheckpointError, OSError: what is done stays in the journal.
    """
    ranks, threads = ranks or Ranks(), threads or default_threads()
    with ExitStack() as stack:
        files = _Files(place.result, layout)
        stack.callback(files.close)
        if ranks.first:
            _restore_index(place, layout)
        share = share_of(jobs, ranks.rank, ranks.count)
        done = _believed(read_journals(place.folder), share, files, merged)
        own = [job for job in share if job.number not in done]
        before = sum(job.nbytes for job in share if job.number in done)
        total = sum(job.nbytes for job in share)
        ranks.written(before, total)
        ranks.gather(None)  # nobody writes before all have read what there is
        journal = stack.enter_context(Journal(place.folder, ranks.rank))
        pool = stack.enter_context(Pool(threads))
        _summarize(merged, place, Everyone(ranks, pool), ranks)
        # After this, the threads are gone, and the merge may still be asked for a tensor.
        stack.callback(setattr, merged.summaries, "workers", merged.summaries.workers)
        merged.summaries.workers = pool
        work = _Work(merged, files, journal, own, threads)
        stack.callback(work.close)

        def beat() -> None:
            found = ranks.written(before + work.written, total)
            if progress is not None:
                progress(*found)

        beat()
        pool.run(range(len(own)), work, beat)
        beat()
    parts = ranks.gather({**done, **work.done})
    if progress is not None:
        whole = sum(job.nbytes for job in jobs)
        progress(whole, whole)
    return {number: one for part in parts for number, one in part.items()}


class _Files:
    """The files of a result, open for reading and writing."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._opened: list[int] = []
        try:
            for number, file in enumerate(layout.files):
                self._opened.append(_open_again(folder / file.name, file.size))
                # A loss of power may have lost it, and no digest of a job tells.
                if b"".join(self.read(number, 0, len(file.header))) != file.header:
                    self.write(number, 0, memoryview(file.header))
        except BaseException:
            self.close()
            raise

    def write(self, file: int, offset: int, data: memoryview) -> None:
        while data:
            count = os.pwrite(self._opened[file], data[:_WRITTEN_AT_ONCE], offset)
            data, offset = data[count:], offset + count

    def read(self, file: int, offset: int, size: int) -> Iterator[bytes]:
        while size:
            data = os.pread(self._opened[file], min(size, 1 << 22), offset)
            if not data:
                return
            yield data
            offset, size = offset + len(data), size - len(data)

    def stretch(self, job: Job) -> Stretch:
        """Give the place of a job's result."""
        size = job.nbytes // (job.stop - job.start)
        return Stretch(self._opened[job.file], job.offset, size)

    def close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)
        self._opened.clear()


def _open_again(path: Path, size: int) -> int:
    """Open a file that `allocate` has made, and that nobody should have touched since.

    Raises:
        StageError: somebody has.
    """
    problem, descriptor = "has not the size that it was created with", None
    # A link that someone has put there would lead out of the result.
    if path.is_symlink() or path.parent.is_symlink():
        problem = "is, or lies behind, a link"
    elif not path.exists():
        problem = "is missing"
    else:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        if os.fstat(descriptor).st_size == size:
            return descriptor
        os.close(descriptor)
    raise StageError(
        f"{path} {problem}: something has changed what an interrupted run has left; remove "
        f"{path.parent.parent} and begin again"
    )


def _restore_index(place: Place, layout: Layout) -> None:
    path = place.result / INDEX
    if layout.index is not None and (not path.is_file() or path.read_bytes() != layout.index):
        write_bytes(path, layout.index)


def _believed(
    found: Mapping[int, Done], jobs: Sequence[Job], files: _Files, merged: Merged
) -> dict[int, Done]:
    """Keep what a journal says only where the bytes are still those that it tells of."""
    kept = {}
    for job in jobs:
        done = found.get(job.number)
        if done is None or len(done.inputs) != len(merged.tasks[job.name].inputs):
            continue
        digest = xxhash.xxh3_64()
        for data in files.read(job.file, job.offset, job.nbytes):
            digest.update(data)
        if digest.hexdigest() == done.out:
            kept[job.number] = done
    return kept


def _summarize(merged: Merged, place: Place, everyone: Everyone, ranks: Ranks) -> None:
    """Make the summaries over the whole model, or take those that an earlier run has made."""
    keys = list(merged.summaries.keys_of_models())
    if not keys:
        return
    path = place.folder / _SUMMARIES
    stored = _stored_summaries(path, keys)
    if all(ranks.gather(stored is not None)):
        merged.summaries.know(stored or {})
        return
    merged.summaries.make_models(everyone)
    if ranks.first:
        made = merged.summaries.of_models()
        checked = MemoryCheckpoint(made, metadata={_DIGEST: _digest(made)})
        save(checked, path, overwrite=True)


def _stored_summaries(path: Path, keys: Sequence[str]) -> dict[str, Tensor] | None:
    """Give what an earlier run has made, if it is still what that wrote."""
    try:
        stored = open_checkpoint(path)
        found = {key: stored[key].clone() for key in keys}
    except (CheckpointError, KeyError):
        return None
    return found if stored.metadata.get(_DIGEST) == _digest(found) else None


def _digest(summaries: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_64()
    for key in sorted(summaries):
        digest.update(key.encode())
        digest.update(raw_bytes(summaries[key]))
    return digest.hexdigest()


class _Work:
    """One job after the other, by several threads."""

    def __init__(
        self, merged: Merged, files: _Files, journal: Journal, own: Sequence[Job], threads: int
    ) -> None:
        self._merged, self._files, self._journal, self._own = merged, files, journal, own
        self._ahead = ReadAhead([(job, merged.tasks[job.name]) for job in own], 2 * threads)
        self._lock = threading.Lock()
        self.written = 0
        self.done: dict[int, Done] = {}

    def close(self) -> None:
        self._ahead.close()

    def __call__(self, index: int) -> None:
        job = self._own[index]
        self._ahead.reached(index)
        done = self._straight(job) or self._by_tensors(job)
        self._journal.write(done)
        with self._lock:
            self.done[job.number] = done

    def _straight(self, job: Job) -> Done | None:
        """Do a job from files to a file, if that can be done."""
        passed = self._merged.write(job.name, job.start, job.stop, self._files.stretch(job))
        if passed is None or passed.written is None:
            return None
        with self._lock:
            self.written += job.nbytes
        return Done(job.number, passed.written, passed.read)

    def _by_tensors(self, job: Job) -> Done:
        digest = xxhash.xxh3_64()
        offset = job.offset
        with files_kept_open(), _stream_of(self._merged.device):
            raw = RawBytes()
            for part in self._parts(job):
                data = raw.of(part)
                digest.update(data)
                self._files.write(job.file, offset, data)
                offset += data.nbytes
                with self._lock:
                    self.written += data.nbytes
        return Done(job.number, digest.hexdigest(), self._read(job))

    def _parts(self, job: Job) -> Iterator[Tensor]:
        if not self._merged.reads_ranges(job.name):
            yield self._merged[job.name]
            return
        yield from self._merged.blocks(job.name, job.start, job.stop, BLOCK)

    def _read(self, job: Job) -> tuple[str | None, ...]:
        return tuple(
            source.checkpoint.take(source.name, job.start, job.stop)
            if isinstance(source.checkpoint, NotedCheckpoint)
            else None
            for source in self._merged.tasks[job.name].inputs
        )


@contextmanager
def _stream_of(device: torch.device | None) -> Iterator[None]:
    """On a GPU, a stream for each job, so that copies of one overlap with the work of others."""
    if device is None or device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield
