"""What a loop over several models needs: copies of one start, and batches of all data sets."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

from conjoin.arguments import as_mapping, as_module, as_whole
from conjoin.errors import DataError, InputError

__all__ = ["copies_of", "cycle"]

M = TypeVar("M", bound=nn.Module)


def copies_of(module: M, names: Iterable[str]) -> dict[str, M]:
    """Give a copy of a module for each name: models from one initialization.

    Args:
        module: is copied.
        names: of the copies.

    Raises:
        InputError: it is no module, or names are no list of different ones.

    >>> nets = copies_of(nn.Linear(2, 1), ["mnist", "svhn"])
    >>> bool((nets["mnist"].weight == nets["svhn"].weight).all())
    True
    """
    as_module(module)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f'names is a list of names such as ["a", "b"], not {names!r}')
    names = list(names)
    if len(set(names)) < len(names):
        raise InputError(f"a name is there twice: {names}")
    return {name: copy.deepcopy(module) for name in names}


def cycle(
    loaders: Mapping[str, Iterable[Any]], steps: int | None = None
) -> Iterator[dict[str, Any]]:
    """Give one batch of each data set a step; shorter ones are gone through again.

    Args:
        loaders: name -> what can be gone through more than once, such as a DataLoader.
        steps: how many; None ends with the longest.

    Raises:
        InputError: there is no loader, or `steps` is no number of steps.
        DataError: one gives no batches, or (if it had to begin again) no batches a second time.

    >>> list(cycle({"a": [1, 2, 3], "b": [10, 20]}))
    [{'a': 1, 'b': 10}, {'a': 2, 'b': 20}, {'a': 3, 'b': 10}]
    """
    if not as_mapping(loaders, "loaders", '{"a": loader_a, "b": loader_b}'):
        raise InputError("cycle needs at least one loader")
    return _cycled(loaders, None if steps is None else as_whole(steps, "steps"))


def _cycled(loaders: Mapping[str, Iterable[Any]], steps: int | None) -> Iterator[dict[str, Any]]:
    iterators = {name: iter(loader) for name, loader in loaders.items()}
    finished: set[str] = set()
    step = 0
    while steps is None or step < steps:
        batches = {}
        for name, loader in loaders.items():
            try:
                batches[name] = next(iterators[name])
            except StopIteration:
                finished.add(name)
                if steps is None and len(finished) == len(loaders):
                    return
                iterators[name] = iter(loader)
                try:
                    batches[name] = next(iterators[name])
                except StopIteration:
                    raise DataError(
                        f"the data of {name!r} gave no batch"
                        + (" a second time: pass a list or a DataLoader" if step else "")
                    ) from None
        yield batches
        step += 1
