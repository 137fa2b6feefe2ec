"""What has to be off while activations are watched."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["without_fast_path"]


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let attention of PyTorch run operation by operation, as it does in training.

    Its fast path for eval mode runs a whole encoder layer at once, so that no hook sees what is in
    it; with a padding mask it gives nested tensors, which have no shape and few operations.

    >>> with without_fast_path():
    ...     torch.backends.mha.get_fastpath_enabled()
    False
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
