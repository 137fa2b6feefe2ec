"""Random numbers: a job draws the same each time; the caller's generators stay as they are.

A run that was killed and goes on must see the same shuffled and augmented examples as one that was
not, and `compare` must not change what its caller draws next.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["drawn", "seeded"]


@dataclass(frozen=True, eq=False)
class _States:
    """Of the global generators of PyTorch, NumPy and Python."""

    torch: Tensor
    cuda: list[Tensor]
    numpy: Any
    python: Any


def _get() -> _States:
    # CUDA is not started for this; what has not begun has no state to keep.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return _States(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())


def _set(states: _States) -> None:
    torch.set_rng_state(states.torch)
    if states.cuda:
        torch.cuda.set_rng_state_all(states.cuda)
    np.random.set_state(states.numpy)
    random.setstate(states.python)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed the global generators of PyTorch, NumPy and Python for the block; put them back after.

    >>> before = torch.get_rng_state()
    >>> with seeded(3):
    ...     first = torch.rand(())
    >>> with seeded(3):
    ...     bool(torch.rand(()) == first)
    True
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    before = _get()
    try:
        _seed(seed)
        yield
    finally:
        _set(before)


def drawn(data: Iterable[Any], seed: int = 0) -> Iterator[Any]:
    """Go through data whose random numbers are the same each time, whoever else draws meanwhile.

    >>> def two():
    ...     yield random.random()
    ...     yield random.random()
    >>> first = list(drawn(two()))
    >>> first == [value for value in drawn(two()) if random.random() < 2]
    True
    """
    iterator: Iterator[Any] | None = None
    inside: _States | None = None
    while True:
        outside = _get()
        try:
            if iterator is None or inside is None:
                _seed(seed)
                iterator = iter(data)
            else:
                _set(inside)
            try:
                item = next(iterator)
            except StopIteration:
                return
            inside = _get()
        finally:
            _set(outside)
        yield item
