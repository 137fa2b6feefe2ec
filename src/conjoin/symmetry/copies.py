"""Copies of models without what earlier runs have left in them, and what has no weights to copy."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from conjoin.errors import InputError

__all__ = ["check_weights", "fresh_copy"]

M = TypeVar("M", bound=nn.Module)


def fresh_copy(model: M) -> M:
    """Give a copy that computes from its own weights alone.

    In eval mode some models (LeViT and TinyViT of timm, for instance) keep what they once computed
    from their weights, so that a copy with other weights would go on with that. They forget it when
    they are put into train mode; so is the copy, for a moment.

    Raises:
        InputError: it cannot be copied.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    >>> _ = net[1].eval()
    >>> [part.training for part in fresh_copy(net)]
    [True, False]
    """
    try:
        result = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{type(model).__name__} cannot be copied ({error}). If it is pruned, or has the older "
            "weight_norm or spectral_norm, make its weights plain first: prune.remove, "
            "remove_weight_norm, remove_spectral_norm"
        ) from error
    modes = [(part, part.training) for part in result.modules()]
    result.train()
    for part, mode in modes:
        part.training = mode
    return result


def check_weights(model: nn.Module, what: str = "the model") -> None:
    """Raise an InputError if weights of a model are not there yet.

    Args:
        model: any.
        what: it is called in the message.

    >>> check_weights(nn.LazyLinear(2))
    Traceback (most recent call last):
    ...
    conjoin.errors.InputError: 'weight' of the model is not initialized: its module is lazy and does
    not know its shape. Run the model on one batch first
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"{name!r} of {what} is not initialized: its module is lazy and does not know its "
                "shape. Run the model on one batch first"
            )
        if tensor.is_meta:
            raise InputError(
                f"{name!r} of {what} is on the meta device and has no data; load its weights first"
            )
