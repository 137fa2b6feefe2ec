"""A network for each task, with parameters in common."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from conjoin.errors import InputError

__all__ = ["TaskNetworks", "share_parameters"]


class TaskNetworks(nn.Module):
    """A network for each task: ``networks[task](x)``; what they share are the same parameters.

    For networks whose private parts are not one head at the end, so that no trunk can be run once
    for all: private first layers, normalization, adapters. Shared parameters are stored once.

    Args:
        networks: task -> module. Names are those of `nn.ModuleDict`: not empty, without a dot.

    Raises:
        InputError: there are none, a name cannot be used, or a forward names a task that has none.

    >>> import torch
    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> other.weight = one.weight
    >>> net = TaskNetworks({"mnist": one, "street": other})
    >>> net(torch.zeros(3, 2), task="street").shape, len(list(net.parameters()))
    (torch.Size([3, 2]), 3)
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if bad := [name for name in networks if not name or "." in name]:
            raise InputError(f"a task's name must not be empty or have a dot: {bad}")
        if not networks:
            raise InputError("a network of several tasks needs at least one")
        self.networks = nn.ModuleDict(dict(networks))

    def forward(self, *inputs: Any, task: str, **named: Any) -> Any:
        """Give the output of the network of `task`."""
        return self.for_task(task)(*inputs, **named)

    def for_task(self, task: str) -> nn.Module:
        """Give the network of one task, an ordinary module that shares this one's weights."""
        if task not in self.networks:
            raise InputError(f"no network for task {task!r}; there are {', '.join(self.networks)}")
        return self.networks[task]


def share_parameters(module: nn.Module, shared: Mapping[str, nn.Parameter]) -> None:
    """Put parameters of another network in the place of a module's own; its own ties are kept.

    Args:
        module: changed.
        shared: by their names in it; names that it has not are left out.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> share_parameters(other, {"weight": one.weight})
    >>> other.weight is one.weight, other.bias is one.bias
    (True, False)
    """
    own = dict(module.named_parameters())
    replaced = {id(own[name]): parameter for name, parameter in shared.items() if name in own}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) in replaced:
                part._parameters[name] = replaced[id(parameter)]
