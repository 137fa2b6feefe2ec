"""Several heads on one shared trunk."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from conjoin.errors import InputError

__all__ = ["MultiHead"]


class MultiHead(nn.Module):
    """A trunk that all tasks share and a private head for each: ``heads[task](trunk(x))``.

    Inputs are whatever the trunk takes: one, several, or named ones.

    Args:
        trunk: maps the inputs to features.
        heads: task name -> module on those features. Names are those of `nn.ModuleDict`: not
            empty, without a dot.

    Raises:
        InputError: there are no heads, a name cannot be used, or a forward names a task
            that has none.

    >>> import torch
    >>> net = MultiHead(nn.Linear(3, 4), {"mnist": nn.Linear(4, 10), "street": nn.Linear(4, 10)})
    >>> net(torch.zeros(2, 3), task="street").shape
    torch.Size([2, 10])
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if bad := [name for name in heads if not name or "." in name]:
            raise InputError(f"a task's name must not be empty or have a dot: {bad}")
        if not heads:
            raise InputError("a network with several heads needs at least one head")
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(heads))

    def forward(self, *inputs: Any, task: str | None = None, **named: Any) -> Any:
        """Give the output of the head of `task`, which may also be the last of the inputs."""
        if task is None and inputs and isinstance(inputs[-1], str):
            inputs, task = inputs[:-1], inputs[-1]
        if task is None:
            raise InputError(f"say which task: net(x, task={next(iter(self.heads))!r})")
        return self.head(task)(self.trunk(*inputs, **named))

    def head(self, task: str) -> nn.Module:
        """Give the head of `task`."""
        if task not in self.heads:
            raise InputError(
                f"no head for task {task!r}; there are heads for {', '.join(self.heads)}"
            )
        return self.heads[task]

    def for_task(self, task: str) -> nn.Module:
        """Give the network of one task as an ordinary module that shares this one's weights."""
        return _InOrder(self.trunk, self.head(task))


class _InOrder(nn.Sequential):
    """Modules one after the other, of which the first takes several inputs or named ones."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        first, *others = self
        found = first(*inputs, **named)
        for module in others:
            found = module(found)
        return found
