"""What an argument has to be, and an error that says so where it is something else."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

from conjoin.deferred import torch
from conjoin.dtypes import DTYPES, DType, dtype_of
from conjoin.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "as_dtype",
    "as_mapping",
    "as_module",
    "as_modules",
    "as_numbers",
    "as_whole",
    "check_weights",
    "plain",
]


def as_module(value: object, what: str = "the model") -> nn.Module:
    """Give a module back; say what else it is.

    Args:
        value: what was passed.
        what: it is called in the message.

    Raises:
        InputError: it is no module.

    >>> as_module({"weight": torch.zeros(2)}, "the first model")
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: the first model has to be a torch.nn.Module, not dict; load the
    state dict into a network of its class first: network.load_state_dict(...)
    """
    if isinstance(value, torch.nn.Module):
        return value
    hint = ""
    if isinstance(value, Mapping):
        hint = "; load the state dict into a network of its class first: "
        hint += "network.load_state_dict(...)"
    elif isinstance(value, type) and issubclass(value, torch.nn.Module):
        hint = f" {value.__name__}; pass an instance of it"
    raise InputError(f"{what} has to be a torch.nn.Module, not {type(value).__name__}{hint}")


def check_weights(model: nn.Module, what: str = "the model") -> None:
    """Raise an InputError if weights of a model are not there yet.

    Args:
        model: any.
        what: it is called in the message.

    >>> from torch import nn
    >>> check_weights(nn.LazyLinear(2))
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: 'weight' of the model is not initialized: its module is lazy and does
    not know its shape. Run the model on one batch first
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise InputError(
                f"{name!r} of {what} is not initialized: its module is lazy and does not know its "
                "shape. Run the model on one batch first"
            )
        if tensor.is_meta:
            raise InputError(
                f"{name!r} of {what} is on the meta device and has no data; load its weights first"
            )


def as_modules(values: Any, what: str) -> list[nn.Module]:
    """Give a list of modules from a sequence of them.

    Raises:
        InputError: it is none, or has something else.

    >>> from torch import nn
    >>> as_modules(nn.Linear(1, 1), "parents")
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: parents has to be a list of modules, [a, b], not Linear
    """
    alone = isinstance(values, Mapping | str | torch.nn.Module) and not isinstance(
        values, torch.nn.ModuleList
    )
    if alone or not isinstance(values, Iterable):
        raise InputError(f"{what} has to be a list of modules, [a, b], not {type(values).__name__}")
    return [as_module(one, f"number {number} of {what}") for number, one in enumerate(values)]


def as_numbers(values: object, what: str) -> tuple[float, ...]:
    """Give finite numbers from a sequence of them: a list, an array, a tensor of one axis.

    Args:
        values: what was passed.
        what: they are called in the message.

    Raises:
        InputError: it is no sequence of finite numbers.

    >>> as_numbers(torch.tensor([1, 3]), "weights")
    (1.0, 3.0)
    >>> as_numbers({"a": 1}, "weights")
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: weights has to be a list of numbers, not {'a': 1}
    """
    # The order of a set says nothing, and a mapping gives its keys.
    scalar = getattr(values, "ndim", 1) == 0
    if (
        not isinstance(values, Iterable)
        or isinstance(values, Mapping | Set | str | bytes)
        or scalar
    ):
        raise InputError(f"{what} has to be a list of numbers, not {values!r:.200}")
    given = plain([*values])
    if not all(isinstance(one, int | float) for one in given):
        raise InputError(f"{what} has to be a list of numbers, not {given!r:.200}")
    if not all(map(math.isfinite, given)):
        raise InputError(f"{what} has to be finite numbers, not {given!r:.200}")
    return tuple(map(float, given))


def plain(value: Any) -> Any:
    """Give Python's own numbers for those of NumPy and torch, and lists for arrays.

    >>> plain([torch.tensor(2), 3.5])
    [2, 3.5]
    """
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def as_whole(value: Any, what: str, least: int = 0) -> int:
    """Give a whole number of at least some size.

    Raises:
        InputError: it is none.

    >>> as_whole(2.5, "batch_size", 1)
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: batch_size has to be a whole number from 1 on, not 2.5
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise InputError(f"{what} has to be a whole number from {least} on, not {value!r:.200}")
    return number


def as_mapping(value: Any, what: str, example: str) -> Mapping[Any, Any]:
    """Give a mapping back; None is an empty one.

    Raises:
        InputError: it is none.

    >>> as_mapping("head.*", "keep", '{"head.*": 0}')
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: keep has to be a mapping such as {"head.*": 0}, not 'head.*'
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{what} has to be a mapping such as {example}, not {value!r:.200}")
    return value


def as_dtype(value: torch.dtype | str) -> DType:
    """Give a dtype for weights from itself or its name.

    Raises:
        InputError: it is none, or weights cannot have it.

    >>> as_dtype("bfloat16").torch
    torch.bfloat16
    """
    dtype = None
    if isinstance(value, str):
        name = value.removeprefix("torch.")
        dtype = DTYPES.get(name)
        value = value if dtype is not None else getattr(torch, name, value)  # "half" is another
    if dtype is None and isinstance(value, torch.dtype):
        dtype = dtype_of(value)
    if dtype is None:
        raise InputError(
            f"dtype has to be a torch.dtype such as torch.bfloat16, not {value!r:.200}"
        )
    if not (dtype.is_floating_point or dtype.is_complex):
        raise InputError(f"weights cannot be {dtype}; name a floating-point dtype")
    return dtype
