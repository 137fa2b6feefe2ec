"""Reading the data once: what statistics come from, and what is kept to measure them on."""

from collections.abc import Mapping, Sequence

import torch

from conjoin.batches import Data, Inputs, batches, inputs_of, map_inputs, size_of
from conjoin.errors import DataError, InputError

__all__ = ["EVERY", "read", "split"]

EVERY = 5
"""Every fifth example is held out where there are no validation data."""


def read(
    data: Sequence[Data] | Mapping[str, Data], parents: int, examples: int, batch_size: int
) -> list[list[Inputs]]:
    """Give the inputs of the first examples of each data set, in batches.

    Args:
        data: one data set for each parent, or one for all.
        parents: how many there are.
        examples: of each set, at most.
        batch_size: used for whole sets.

    Raises:
        InputError: it is no list of data sets, or not as many as parents.
        DataError: a data set has no example.
    """
    parts = list(data.values()) if isinstance(data, Mapping) else data
    is_list = isinstance(parts, Sequence) and not isinstance(parts, str)
    if not is_list or any(isinstance(part, torch.Tensor) for part in parts):
        raise InputError(
            "data= is a list with a loader for each parent, or with one for all of them: "
            "data=[loader]"
        )
    if len(parts) not in (1, parents):
        raise InputError(
            f"data= needs a loader for each of the {parents} parents, or one for all of them in a "
            f"list; found {len(parts)}"
        )
    found = []
    for number, part in enumerate(parts, 1):
        kept: list[Inputs] = []
        left = examples
        for batch in batches(part, batch_size):
            inputs = inputs_of(batch)
            if size_of(inputs) > left:
                inputs = map_inputs(inputs, lambda tensor, left=left: tensor[:left])
            if size_of(inputs):
                kept.append(inputs)
            left -= size_of(inputs)
            if left <= 0:
                break
        if not kept:
            raise DataError(
                f"data set {number} of {len(parts)} gave no example; a loader can be used up: pass "
                "a list"
            )
        found.append(kept)
    return found


def split(sets: Sequence[Sequence[Inputs]]) -> tuple[list[list[Inputs]], list[list[Inputs]]]:
    """Hold out every fifth example of each set: one in five also where a set is sorted by class.

    Returns:
        Batches of what stays, and of what is held out.

    Raises:
        DataError: a set has fewer than five examples.

    >>> stays, out = split([[torch.arange(7), torch.arange(7, 11)]])
    >>> out
    [[tensor([4]), tensor([9])]]
    """
    stays: list[list[Inputs]] = []
    out: list[list[Inputs]] = []
    for number, batches_of_set in enumerate(sets, 1):
        both: tuple[list[Inputs], list[Inputs]] = ([], [])
        seen = 0
        for batch in batches_of_set:
            is_out = (torch.arange(seen, seen + size_of(batch)) + 1) % EVERY == 0
            seen += size_of(batch)
            for where, kept in zip((~is_out, is_out), both, strict=True):
                if bool(where.any()):
                    index = where.nonzero()[:, 0]
                    kept.append(map_inputs(batch, lambda t, index=index: t[index.to(t.device)]))
        if not both[1]:
            raise DataError(
                f"data set {number} has {seen} examples; without validation= every {EVERY}th is "
                "held out to measure on, so give more, or validation="
            )
        stays.append(both[0])
        out.append(both[1])
    return stays, out
