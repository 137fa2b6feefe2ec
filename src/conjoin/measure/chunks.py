"""Going through a tensor of a checkpoint in pieces."""

from collections.abc import Iterator

import torch
from torch import Tensor

from conjoin.checkpoints import Checkpoint
from conjoin.errors import CheckpointError

__all__ = ["CHUNK", "as_reals", "chunks"]

CHUNK = 1 << 20
"""Elements of a piece: 8 MB in float64."""


def chunks(checkpoint: Checkpoint, name: str, size: int = CHUNK) -> Iterator[Tensor]:
    """Yield a tensor flat, in pieces of at most `size` elements, in row-major order.

    Raises:
        CheckpointError: the tensor is on the meta device and has no data.

    >>> from conjoin.checkpoints import as_checkpoint
    >>> [len(piece) for piece in chunks(as_checkpoint({"a": torch.ones(2, 5)}), "a", 4)]
    [4, 4, 2]
    """
    count = checkpoint.spec_of(name).numel
    # The default `read` makes the whole tensor for every piece of it: make it once instead.
    whole = type(checkpoint).read is Checkpoint.read
    flat = checkpoint[name].reshape(-1) if whole else None
    for start in range(0, count, size):
        stop = min(start + size, count)
        piece = checkpoint.read(name, start, stop) if flat is None else flat[start:stop]
        if piece.is_meta:
            raise CheckpointError(
                f"{name!r} in {checkpoint.source} is on the meta device and has no data; load or "
                "initialize the model first"
            )
        yield piece.cpu()


def as_reals(tensor: Tensor) -> Tensor:
    """Return a flat tensor in float64; a complex number becomes its two parts.

    >>> as_reals(torch.tensor([1 + 2j]))
    tensor([1., 2.], dtype=torch.float64)
    """
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex128).resolve_conj()).reshape(-1)
    return tensor.to(torch.float64)
