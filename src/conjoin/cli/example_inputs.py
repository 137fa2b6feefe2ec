"""Examples of what a model takes: of a shape that is given, or out of the user's data."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conjoin.errors import DataError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from conjoin.batches import Inputs

__all__ = ["Shape", "describe_inputs", "draw_inputs", "load_inputs", "parse_shape"]

Shape = tuple[str | None, tuple[int, ...], int | None]
"""Name of an input, shape of one example, and the number that its whole numbers are below."""

_SHAPE = re.compile(r"(?:(\w+)=)?(scalar|\d+(?:,\d+)*)(?::(\d+))?", re.ASCII)


def parse_shape(text: str) -> Shape:
    """Read ``[NAME=]SHAPE[:BELOW]``.

    >>> parse_shape("3,32,32"), parse_shape("mask=128:2"), parse_shape("scalar")
    ((None, (3, 32, 32), None), ('mask', (128,), 2), (None, (), None))
    """
    parts = _SHAPE.fullmatch(re.sub(r" *, *", ",", text.strip()))
    if parts is None:
        raise InputError(
            f"--inputs takes the shape of one example, such as 3,32,32, or 128:5000 for numbers of "
            f"tokens below 5000, or scalar, each with a name or without: mask=128:2; not {text!r}"
        )
    name, shape, below = parts.groups()
    sizes = () if shape == "scalar" else tuple(map(int, shape.split(",")))
    if 0 in sizes or below == "0":
        raise InputError(f"--inputs {text} has a 0; without numbers there is nothing to run on")
    return name, sizes, None if below is None else int(below)


def draw_inputs(shapes: Sequence[Shape], batch: int, seed: int) -> "Inputs":
    """Draw a batch: normal numbers, or whole numbers where a shape says below which.

    >>> draw_inputs([parse_shape("3,4")], 2, 0).shape
    torch.Size([2, 3, 4])
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(batch, *shape, generator=generator)
        if below is None
        else torch.randint(below, (batch, *shape), generator=generator)
        for _, shape, below in shapes
    ]
    names = [name for name, _, _ in shapes if name is not None]
    if not names:
        return tensors[0] if len(tensors) == 1 else tuple(tensors)
    if len(set(names)) < len(shapes):
        raise InputError("--inputs takes a name for each of several inputs, all different, or none")
    return dict(zip(names, tensors, strict=True))


def load_inputs(spec: str, batch: int, seed: int) -> "Inputs":
    """Take the first examples of what a function of the user's gives.

    Args:
        spec: of the function: ``data.py:loaders``.
        batch: how many, if there are as many.
        seed: of what the function and its loaders draw.

    Raises:
        DataError: it gives no examples.
        UserCodeError: it raised.
    """
    from conjoin.batches import concatenate, first_examples, map_inputs
    from conjoin.comparison.randomness import seeded
    from conjoin.comparison.user_code import find_callable, users_code

    with seeded(seed):
        function = find_callable(spec)
        with users_code(spec):
            found = first_examples(_one_loader(function(), spec), batch)
    if not found:
        raise DataError(f"{spec} gave a loader without a batch; examples are needed")
    return map_inputs(concatenate(found), lambda tensor: tensor.detach().cpu())


def _one_loader(data: Any, spec: str) -> Any:
    """Give one loader out of tasks and parts: of the first task, a part that is not augmented."""
    while isinstance(data, Mapping):
        parts = [part for part in ("test", "validation", *data) if part in data]
        data = data[parts[0]] if parts else None
    if data is None:
        raise DataError(f"{spec} gave no data; it must return a loader, or loaders by name")
    return data


def describe_inputs(examples: "Inputs") -> list[dict[str, Any]]:
    """Say what each input is, for JSON."""
    named: Iterable[tuple[str | None, Tensor]]
    if isinstance(examples, Mapping):
        named = examples.items()
    else:
        named = ((None, t) for t in (examples if isinstance(examples, Sequence) else [examples]))
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in named
    ]
