"""Modules that are to be merged: whether their code is one, and a copy for the result."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from conjoin.deferred import torch
from conjoin.errors import InputError, StructureWarning

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_modules", "copy_of"]

M = TypeVar("M", bound="nn.Module")

# What decides what a layer computes from its tensors, and does not show in their shapes.
_SETTINGS = ("eps", "stride", "padding", "padding_mode", "dilation", "groups", "num_heads")
_COMPUTING = frozenset({"WeightNorm", "SpectralNorm"})
"""Hooks that compute a weight before each call: the older way, beside parametrizations."""
_INERT = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "Identity")
"""Layers of torch.nn that do nothing in evaluation mode, or in training mode only."""


def check_modules(models: Sequence[nn.Module]) -> None:
    """Refuse weights that are computed from others, and warn of layers that are not alike.

    Raises:
        InputError: a weight is computed by a parametrization.
    """
    for number, model in enumerate(models):
        _refuse_computed_weights(model, number)
    for number, other in enumerate(models[1:], start=1):
        difference = _difference(models[0], other)
        if difference is not None:
            warnings.warn(
                f"models 0 and {number} have the same tensors, but do not compute the same with "
                f"them: {difference}. The result computes as the first does",
                StructureWarning,
                stacklevel=3,
            )


def copy_of(module: M) -> M:
    """Copy a module.

    Raises:
        InputError: it cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{type(module).__name__} cannot be copied ({error}). If it is pruned, or has the "
            "older weight_norm or spectral_norm, make its weights plain first (prune.remove, "
            "remove_weight_norm, remove_spectral_norm); else merge state dicts, and load the result"
        ) from error


def _refuse_computed_weights(model: nn.Module, number: int) -> None:
    for name, part in model.named_modules():
        if torch.nn.utils.parametrize.is_parametrized(part):
            computed = next(iter(part.parametrizations))
            raise InputError(
                f"{f'{name}.{computed}'.lstrip('.')!r} of model {number} is computed from other "
                "tensors by a parametrization (weight_norm, spectral_norm, ...), and the mean of "
                "these gives another weight than the mean of weights. Make it a plain weight in "
                "every model first: torch.nn.utils.parametrize.remove_parametrizations(layer, "
                f"{computed!r})"
            )
        for hook in part._forward_pre_hooks.values():
            if type(hook).__name__ in _COMPUTING and type(hook).__module__.startswith("torch.nn."):
                raise InputError(
                    f"a weight of {name or 'the whole'!r} of model {number} is computed from other "
                    f"tensors ({type(hook).__name__}), and the mean of these gives another weight "
                    "than the mean of weights. Make it a plain weight in every model first: "
                    "remove_weight_norm, remove_spectral_norm or prune.remove of torch.nn.utils"
                )


def _difference(first: nn.Module, other: nn.Module) -> str | None:
    """Describe the first layer that computes something else, None if there is none.

    >>> from torch import nn
    >>> _difference(nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh()))
    "'0' is ReLU() and Tanh()"
    """
    others = dict(other.named_modules())
    inert = tuple(getattr(torch.nn, name) for name in _INERT)
    for name, part in first.named_modules():
        twin = others.get(name)
        if twin is None or isinstance(part, inert) or isinstance(twin, inert):
            continue
        if _behaviour(part) != _behaviour(twin):
            shown = [_shown(one) for one in (part, twin)]
            return f"{name or 'the whole'!r} is {shown[0]} and {shown[1]}"
    return None


def _behaviour(part: nn.Module) -> object:
    # By name: a class that was defined again, in a notebook, say, is another one.
    settings = [repr(getattr(part, name, None)) for name in _SETTINGS]
    has_tensors = part._parameters or part._buffers or part._modules
    own = "" if has_tensors else part.extra_repr().replace("inplace=True", "")
    return type(part).__qualname__, settings, own


def _shown(part: nn.Module) -> str:
    return f"{type(part).__name__}({'' if part._modules else part.extra_repr()})"
