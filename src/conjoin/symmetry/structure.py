"""Whether two modules compute by the same operations, as far as that can be told for sure."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["structure_of"]

_OWN = frozenset(vars(nn.Module()))
_HOOKS = tuple(name for name in _OWN if "hooks" in name)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)


def structure_of(model: nn.Module) -> Hashable | None:
    """Give what the graph of a module's operations depends on besides its inputs.

    Equal values mean equal graphs: classes and plain attributes of all modules, in order, and
    shapes and dtypes of all tensors. None if there is anything else that an operation could
    depend on: hooks, attributes that are functions or objects, tensors that are no parameters or
    saved buffers.

    >>> structure_of(nn.Linear(2, 3)) == structure_of(nn.Linear(2, 3))
    True
    >>> structure_of(nn.Linear(2, 3)) == structure_of(nn.Linear(2, 4))
    False
    """
    parts = []
    for name, part in model.named_modules(remove_duplicate=False):
        own = _plain_attributes(part)
        if own is None:
            return None
        parts.append((name, type(part), own))
    saved = dict(model.state_dict(keep_vars=True))
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    if any(name not in saved for name, _ in named):
        return None  # a buffer that is not saved may hold anything
    tensors = []
    known: dict[int, str] = {}
    for name, tensor in named:
        first = known.setdefault(id(tensor), name)
        kind = type(tensor), tuple(tensor.shape), tensor.dtype, tensor.device, first
        tensors.append((name, *kind))
    return tuple(parts), tuple(tensors)


def _plain_attributes(part: nn.Module) -> Hashable | None:
    if any(vars(part).get(name) for name in _HOOKS):
        return None
    found: dict[str, Any] = {}
    for cls in reversed(type(part).__mro__):
        if not cls.__module__.startswith("torch."):
            found |= {f"{cls.__name__}.{name}": v for name, v in vars(cls).items() if _is_data(v)}
    own = {name: value for name, value in vars(part).items() if name not in _OWN}
    frozen = [(name, _frozen(value)) for name, value in {**found, **own}.items()]
    return None if any(value is _UNKNOWN for _, value in frozen) else tuple(frozen)


_UNKNOWN = object()


def _is_data(value: Any) -> bool:
    """Whether an attribute of a class is data, and no method, property or documentation."""
    return isinstance(value, bool | int | float | list | tuple | dict | Tensor)


def _frozen(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, list | tuple):
        items = tuple(_frozen(item) for item in value)
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else (type(value), items)
    if isinstance(value, Mapping):
        return _frozen(tuple(value.items()))
    return _UNKNOWN
