"""What data sets and models exchange: batches of inputs with their targets.

A data set is a loader of pairs ``(inputs, targets)``, one such pair for the whole set, or a
`torch.utils.data.Dataset` of examples. Inputs are what the model's ``forward`` takes:

    a tensor                    model(x)
    a tuple or list of them     model(x_1, x_2)
    a mapping of them           model(name=x)

Every tensor's first dimension is the batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, islice, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from conjoin.arguments import as_whole
from conjoin.errors import DataError

__all__ = [
    "Data",
    "Inputs",
    "are_finite",
    "batches",
    "concatenate",
    "device_of",
    "first_examples",
    "in_shape_of",
    "inputs_of",
    "inputs_on",
    "map_inputs",
    "pair_of",
    "read_logits",
    "run_model",
    "size_of",
    "with_example",
]

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""What one call of a model takes."""

Data = Iterable[Any] | tuple[Any, Tensor]
"""A loader of ``(inputs, targets)`` batches, that pair for a whole set, or a `Dataset`."""


def batches(data: Data, batch_size: int) -> Iterable[Any]:
    """Give batches of a pair of tensors, or of a `Dataset`; a loader is given back as it is.

    A last example that would be alone is in the batch before: BatchNorm needs two.

    Raises:
        InputError: the size is no positive whole number.
        DataError: it is one tensor, which has no batches, or has not as many labels as inputs.

    >>> [len(labels) for _, labels in batches((torch.zeros(5, 2), torch.zeros(5)), 2)]
    [2, 3]
    """
    batch_size = as_whole(batch_size, "batch_size", 1)
    if isinstance(data, Tensor):
        raise DataError(
            f"expected a loader of batches, or a pair (inputs, targets); got a tensor "
            f"{list(data.shape)}: pass (x, y), or [x] where x is one batch"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        edges = _edges(len(cast(Sized, data)), batch_size)
        return DataLoader(data, batch_sampler=[list(range(*span)) for span in pairwise(edges)])
    if not (isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor)):
        if not isinstance(data, Iterable):
            raise DataError(f"expected a loader of batches, got {type(data).__name__}")
        return data
    if not _are_inputs(data[0]):
        return data
    inputs, targets = cast(tuple[Inputs, Tensor], data)
    if size_of(inputs) != len(targets):
        raise DataError(f"{size_of(inputs)} inputs but {len(targets)} labels")
    return _cut(inputs, targets, batch_size)


def _cut(inputs: Inputs, targets: Tensor, size: int) -> Iterator[tuple[Inputs, Tensor]]:
    for start, stop in pairwise(_edges(len(targets), size)):
        part = slice(start, stop)
        yield map_inputs(inputs, lambda tensor, part=part: tensor[part]), targets[part]


def _edges(count: int, size: int) -> list[int]:
    """Give where batches begin, and the end; one example alone goes along with those before it.

    >>> _edges(5, 2), _edges(6, 2), _edges(1, 2), _edges(2, 1), _edges(0, 2)
    ([0, 2, 5], [0, 2, 4, 6], [0, 1], [0, 1, 2], [0])
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1 < size:
        starts.pop()
    return [*starts, count]


def pair_of(batch: Any, where: str) -> tuple[Inputs, Tensor]:
    """Give the inputs and targets of a batch.

    Args:
        batch: what a loader has given.
        where: the data set, for the message.

    Raises:
        DataError: it is no such pair, or the two have different lengths.
    """
    is_pair = isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2
    if not is_pair or not _are_inputs(batch[0]) or not isinstance(batch[1], Tensor):
        raise DataError(
            f"the data of {where!r} must give pairs (inputs, labels) of tensors, not "
            f"{_described(batch)}; for a model of several inputs, give ((x_1, x_2), labels)"
        )
    inputs, targets = batch
    if targets.dim() == 0 or size_of(inputs) != len(targets):
        count = "a single label" if targets.dim() == 0 else f"{len(targets)} labels"
        raise DataError(f"a batch of {where!r} has {size_of(inputs)} inputs but {count}")
    return inputs, targets


def inputs_of(batch: Any) -> Inputs:
    """Give the inputs of a batch: a tensor, or the first of a sequence.

    Several inputs, in a tuple or mapping, are told from a loader by the targets beside them.

    Raises:
        DataError: there is no tensor in it.
    """
    found = batch[0] if isinstance(batch, Sequence) and batch else batch
    if isinstance(found, Tensor) and found.dim():
        return found
    is_pair = found is not batch and len(batch) == 2 and isinstance(batch[1], Tensor)
    if not is_pair or not _are_inputs(found):
        raise DataError(f"expected batches of inputs or (inputs, ...), got {_described(found)}")
    return cast(Inputs, found)


def size_of(inputs: Inputs) -> int:
    """Count the examples of a batch.

    >>> size_of((torch.zeros(3, 2), torch.zeros(3))), size_of({"x": torch.zeros(4)})
    (3, 4)
    """
    return len(_tensors(inputs)[0])


def are_finite(inputs: Inputs) -> bool:
    """Whether there is neither NaN nor infinity in a batch.

    >>> are_finite(torch.zeros(2)), are_finite({"x": torch.tensor([torch.nan])})
    (True, False)
    """
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(inputs))


def map_inputs(inputs: Inputs, change: Any) -> Inputs:
    """Apply a function to each tensor; the structure stays."""
    if isinstance(inputs, Tensor):
        return cast(Tensor, change(inputs))
    if isinstance(inputs, Mapping):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return tuple(change(tensor) for tensor in inputs)


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """Put batches of one structure together, along their first dimension.

    Raises:
        DataError: their structures differ, or their shapes beyond the first dimension.

    >>> concatenate([torch.zeros(1, 2), torch.zeros(3, 2)]).shape
    torch.Size([4, 2])
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    try:
        if isinstance(first, Tensor):
            return torch.cat([cast(Tensor, part) for part in parts])
        if isinstance(first, Mapping):
            named = [cast(Mapping[str, Tensor], part) for part in parts]
            return {name: torch.cat([part[name] for part in named]) for name in first}
        rows = [cast(Sequence[Tensor], part) for part in parts]
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"batches of different tasks do not fit together: {error}") from error


def first_examples(data: Data, count: int, *, batch_size: int = 250) -> list[Inputs]:
    """Give the inputs of the first `count` examples, in batches; fewer if there are fewer.

    >>> [len(part) for part in first_examples((torch.zeros(9, 2), torch.zeros(9)), 5, batch_size=3)]
    [3, 2]
    """
    found: list[Inputs] = []
    left = count
    for batch in batches(data, batch_size):
        inputs = inputs_of(batch)
        size = size_of(inputs)
        if size > left:
            inputs = map_inputs(inputs, lambda tensor, left=left: tensor[:left])
        found.append(inputs)
        left -= size
        if left <= 0:
            break
    return found


def in_shape_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the outputs of a regression: [B] of [B, 1] where targets are [B], else as they are.

    >>> in_shape_of(torch.zeros(3, 1), torch.zeros(3)).shape
    torch.Size([3])
    """
    return outputs.squeeze(-1) if outputs.shape == (*targets.shape, 1) else outputs


def with_example(data: Data) -> tuple[Inputs | None, Data]:
    """Give two examples, or one, and the data with them: an iterator would have lost them.

    None if there are none.

    >>> example, rest = with_example(iter([torch.zeros(3, 2), torch.ones(3, 2)]))
    >>> example.shape, len(list(rest))
    (torch.Size([2, 2]), 2)
    """
    if isinstance(data, Iterator):
        begin = list(islice(data, 1))
        return next(iter(first_examples(begin, 2)), None), chain(begin, data)
    return next(iter(first_examples(data, 2)), None), data


def device_of(module: nn.Module) -> torch.device | None:
    """Give the device of a module's first parameter; None if it has no parameter."""
    first = next(module.parameters(), None)
    return None if first is None else first.device


def inputs_on(inputs: Inputs, device: torch.device | None) -> Inputs:
    """Bring inputs to a device; None leaves them where they are."""
    return inputs if device is None else map_inputs(inputs, lambda tensor: tensor.to(device))


def run_model(module: nn.Module, inputs: Inputs) -> Any:
    """Call a module on inputs of any structure, on the device of its first parameter."""
    inputs = inputs_on(inputs, device_of(module))
    if isinstance(inputs, Tensor):
        return module(inputs)
    return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)


def read_logits(outputs: Any) -> Any:
    """Give what a model's outputs hold under ``logits``, as models of transformers have them.

    What has no logits is given back as it is.

    >>> read_logits({"logits": 1, "hidden_states": 2}), read_logits(3)
    (1, 3)
    """
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    return getattr(outputs, "logits", outputs)


def _are_inputs(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() > 0
    if not isinstance(value, Sequence | Mapping) or isinstance(value, str) or not len(value):
        return False
    tensors = list(value.values()) if isinstance(value, Mapping) else list(value)
    if not all(isinstance(tensor, Tensor) and tensor.dim() > 0 for tensor in tensors):
        return False
    return len({len(tensor) for tensor in tensors}) == 1


def _tensors(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor {list(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{type(value).__name__} of ({', '.join(_described(part) for part in value[:5])})"
    return type(value).__name__
