"""Programs from files to a file, without tensors in between, where the models lie in files."""

from collections.abc import Sequence
from contextlib import ExitStack

from conjoin.checkpoints import files_kept_open
from conjoin.compiled import Passed, Program, Stretch, run_over_files
from conjoin.merging.blocks import BLOCK
from conjoin.merging.task import Source

__all__ = ["run_from_files"]


def run_from_files(
    program: Program,
    sources: Sequence[Source],
    start: int,
    stop: int,
    *,
    output: Stretch | None = None,
) -> Passed | None:
    """Run a program over a range of tensors, which begins at a block.

    Args:
        program: for the dtypes of the sources.
        sources: its inputs.
        start, stop: elements.
        output: where the result goes, if the program has one; what is read has digests then.

    Returns:
        None if a tensor does not lie in a file, and where `run_over_files` gives up.

    Raises:
        CheckpointError: a file cannot be opened again, or has changed.
    """
    found = [source.checkpoint.in_file(source.name) for source in sources]
    ranges = [one for one in found if one is not None]
    if len(ranges) < len(found):
        return None
    with files_kept_open(), ExitStack() as stack:
        files = [stack.enter_context(one.file.opened()) for one in ranges]
        inputs = []
        for source, one, file in zip(sources, ranges, files, strict=True):
            size = source.spec.stored.itemsize
            inputs.append(Stretch(file.fileno(), one.begin + start * size, size))
        passed = run_over_files(
            program, inputs, output, stop - start, BLOCK, digests=output is not None
        )
        for one, file in zip(ranges, files, strict=True):
            one.file.check(file)
    return passed
