"""Copies of models without what earlier runs have left in them."""

import copy
from typing import TypeVar

from torch import nn

from conjoin.errors import InputError

__all__ = ["fresh_copy"]

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
