"""What an optimizer remembers of each weight, in the order of a reordered network."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from conjoin.errors import InputError
from conjoin.symmetry.permutations import Permutations

__all__ = ["reordered_optimizer_state"]


def reordered_optimizer_state(
    permutations: Permutations, optimizer: Optimizer, model: nn.Module
) -> dict[str, Any]:
    """Give the state with which training of the reordered network goes on as that of the model.

    Args:
        permutations: that the network is reordered by.
        optimizer: of the model; not changed.
        model: as it is, not reordered.

    Returns:
        What ``load_state_dict`` of an optimizer of the reordered network takes.

    Raises:
        InputError: the optimizer has a parameter that is none of the model's, or remembers a tensor
            of another shape than its parameter, of which nobody knows how it moves.

    >>> import torch
    >>> from conjoin.symmetry import find_symmetries
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> adam = torch.optim.Adam(net.parameters())
    >>> net(torch.randn(5, 4)).square().mean().backward(); adam.step()
    >>> found = find_symmetries(net, torch.randn(2, 4))
    >>> order = found.sample(torch.Generator().manual_seed(0))
    >>> other = order.apply(net)
    >>> again = torch.optim.Adam(other.parameters())
    >>> again.load_state_dict(reordered_optimizer_state(order, adam, net))
    >>> bool(torch.equal(again.state[other[0].bias]["exp_avg"],
    ...                  order.tensor("0.bias", adam.state[net[0].bias]["exp_avg"])))
    True
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    # A copy, since optimizers that load the same state would go on in the same tensors.
    found = copy.deepcopy(optimizer.state_dict())
    state = {number: dict(kept) for number, kept in found["state"].items()}
    # A state dict numbers the parameters in the order of their groups.
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for number, parameter in enumerate(parameters):
        name = names.get(id(parameter))
        if name is None:
            raise InputError(
                f"parameter {number} of the optimizer, of shape {list(parameter.shape)}, is none "
                "of the model's; give the model that it was made for, not a copy"
            )
        if permutations.moves(name):
            state[number] = {
                key: _reordered(permutations, name, key, value, parameter)
                for key, value in state.get(number, {}).items()
            }
    return {**found, "state": {number: kept for number, kept in state.items() if kept}}


def _reordered(
    permutations: Permutations, name: str, key: str, value: Any, parameter: Tensor
) -> Any:
    if not isinstance(value, Tensor) or value.numel() == 1:  # such as a count of steps
        return value
    if value.shape != parameter.shape:
        raise InputError(
            f"the optimizer remembers {key!r} of {name!r} with the shape {list(value.shape)}, and "
            f"the parameter has {list(parameter.shape)}: how it moves with it is not known. "
            "Start the optimizer of the reordered network afresh"
        )
    return permutations.tensor(name, value)
