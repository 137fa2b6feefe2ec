"""A network for each task, and a rule that says for which of them an example is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree

from conjoin.errors import InputError
from conjoin.modules.task_networks import TaskNetworks

__all__ = ["RoutedNetworks", "Rule", "first_layer", "pooled_outputs"]


@dataclass(frozen=True)
class Rule:
    """A normal distribution of features for each task; all tasks are equally likely.

    Features are means and standard deviations of what a layer gives, see `pooled_outputs`. They
    are mapped by ``z = (features - shift) @ basis``.

    Args:
        layer: name of the module.
        shift: [features].
        basis: [features, dimensions].
        centers: of z, for each task: [tasks, dimensions].
        factors: A with ``A^T A`` the inverse covariance of z: [tasks, dimensions, dimensions].
        offsets: logarithm of the determinant of A: [tasks].
    """

    layer: str
    shift: Tensor
    basis: Tensor
    centers: Tensor
    factors: Tensor
    offsets: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Give log densities up to a constant, [examples, tasks], of [examples, features]."""
        z = (features - self.shift) @ self.basis
        away = z[None] - self.centers[:, None]  # [tasks, examples, dimensions]
        return (self.offsets[:, None] - (away @ self.factors.mT).square().sum(-1) / 2).T


class RoutedNetworks(nn.Module):
    """One network out of several: each example goes through that of the task it seems to be of.

    The task is inferred from what the first layer gives, or another that is named: all up to it
    runs once more. `conjoin.route` makes it from data.

    Args:
        networks: of each task.
        rule: how a task is inferred; it is kept among the buffers.

    Raises:
        InputError: the rule is for another number of tasks.
    """

    shift: Tensor
    basis: Tensor
    centers: Tensor
    factors: Tensor
    offsets: Tensor

    def __init__(self, networks: TaskNetworks, rule: Rule) -> None:
        super().__init__()
        self.tasks = tuple(networks.networks)
        if len(self.tasks) != len(rule.centers):
            raise InputError(f"a rule for {len(rule.centers)} tasks, not for {len(self.tasks)}")
        self.networks = networks
        self.layer = rule.layer
        for name in ("shift", "basis", "centers", "factors", "offsets"):
            self.register_buffer(name, getattr(rule, name))

    @property
    def rule(self) -> Rule:
        """How a task is inferred."""
        return Rule(self.layer, self.shift, self.basis, self.centers, self.factors, self.offsets)

    def tasks_of(self, *inputs: Any, **named: Any) -> Tensor:
        """Give the number of each example's task, in the order of `tasks`: int64 [examples]."""
        network = self.networks.for_task(self.tasks[0])
        features = pooled_outputs(network, self.layer, *inputs, **named)
        return self.rule.scores(features.to(self.shift.dtype)).argmax(1)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Give the outputs of all examples, in their order.

        Every tensor in the inputs whose first dimension is the number of examples is taken apart;
        all tensors in the outputs are put together along their first dimension. Outputs of all
        tasks need the same structure and shapes: tensors in tuples, lists, mappings, and outputs of
        transformers.

        Raises:
            InputError: inputs or outputs cannot be taken apart or put together so.
        """
        tasks = self.tasks_of(*inputs, **named)
        present = tasks.unique().tolist()
        if len(present) <= 1:
            task = self.tasks[present[0] if present else 0]
            return self.networks.for_task(task)(*inputs, **named)
        _check_lists((inputs, named), len(tasks), "an input")
        found = {}
        for number in present:
            here = (tasks == number).nonzero()[:, 0]

            def part(leaf: Any, here: Tensor = here) -> Any:
                if not isinstance(leaf, Tensor):
                    return _plain(leaf, "an input")
                is_batch = leaf.dim() and len(leaf) == len(tasks)
                return leaf[here.to(leaf.device)] if is_batch else leaf

            taken, keywords = _pytree.tree_map(part, (inputs, named))
            output = self.networks.for_task(self.tasks[number])(*taken, **keywords)
            _check_lists(output, len(here), "an output")
            found[self.tasks[number]] = here, output
        return _joined(found)


def pooled_outputs(network: nn.Module, layer: str, /, *inputs: Any, **named: Any) -> Tensor:
    """Give means and standard deviations of a layer's channels: float32 [examples, features].

    They are taken over all places of an example; where there is one place, there are no deviations.
    Channels are axis 1 of what a convolution gives, or a normalization of its channels, and of
    images [examples, channels, height, width] in general; else they are the last axis.

    Args:
        network: run in eval mode, and no further than to the layer.
        layer: name of a module in it.
        inputs: of the network.
        named: the same, by name.

    Raises:
        InputError: there is no such module, it is not reached, or it gives no tensor of examples.
    """
    modules = dict(network.named_modules())
    if layer not in modules:
        raise InputError(f"the network has no module {layer!r}; it has {', '.join(modules)[:500]}")
    found = _run_to({layer: modules[layer]}, network, inputs, named, lambda _: True)
    if found is None:
        raise InputError(f"the network does not run its module {layer!r}")
    value = found[1]
    count = _count(inputs, named)
    if not isinstance(value, Tensor) or not _is_of_examples(value, count):
        given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"{layer!r} gives {given} for {count} examples, and not a tensor [examples, ..., "
            "channels]; name another module by layer="
        )
    if value.dim() == 2:
        return value.float()
    rows = value.movedim(_channels(modules[layer], value), -1).flatten(1, -2).float()
    mean = rows.mean(1, keepdim=True)
    return torch.cat([mean[:, 0], (rows - mean).square().mean(1).sqrt()], 1)


def first_layer(network: nn.Module, /, *inputs: Any, **named: Any) -> str:
    """Give the name of the first layer that `pooled_outputs` can look at.

    That is the first module that runs, has a weight of two dimensions or more, and gives a tensor
    of as many rows as there are examples.

    Raises:
        InputError: there is none.
    """
    weighty = {
        name: module
        for name, module in network.named_modules()
        # A weight that is computed from others is in a module of its own, below the layer's.
        if "parametrizations" not in name.split(".")
        and (
            any(p.dim() >= 2 for p in module.parameters(recurse=False))
            or "parametrizations" in module._modules
        )
    }
    count = _count(inputs, named)
    found = _run_to(weighty, network, inputs, named, lambda value: _is_of_examples(value, count))
    if found is None:
        raise InputError(
            "the network runs no layer that has a weight and gives a tensor [examples, ..., "
            "channels]; name a module by layer="
        )
    return found[0]


def _count(inputs: Any, named: Any) -> int:
    """Count the examples of a batch."""
    for leaf in _pytree.tree_leaves((inputs, named)):
        if isinstance(leaf, Tensor) and leaf.dim():
            return len(leaf)
    raise InputError(
        "there is no tensor of examples among the inputs, in tuples, lists or mappings; got "
        + ", ".join(type(one).__name__ for one in (*inputs, *named.values()))
    )


def _is_of_examples(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2 and len(value) == count


def _channels(module: nn.Module, value: Tensor) -> int:
    if isinstance(module, nn.LayerNorm):
        return -1 if value.shape[-1] == module.normalized_shape[-1] else 1
    if isinstance(module, nn.Linear | nn.Embedding):
        return -1
    of_channels = (_ConvNd, _NormBase, nn.GroupNorm)
    return 1 if isinstance(module, of_channels) or value.dim() >= 4 else -1


class _ReachedError(Exception):
    """A module has been reached; no more of the network is to run."""

    def __init__(self, name: str, output: Any) -> None:
        super().__init__()
        self.found = name, output


def _run_to(
    modules: Mapping[str, nn.Module],
    network: nn.Module,
    inputs: Any,
    named: Any,
    wanted: Callable[[Any], bool],
) -> tuple[str, Any] | None:
    """Run a network in eval mode until one of the modules gives what is wanted.

    Returns:
        The name of the module and its output; None if there was none.
    """

    def stop_at(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def stop(_: nn.Module, __: Any, output: Any) -> None:
            if wanted(output):
                raise _ReachedError(name, output)

        return stop

    hooks = [module.register_forward_hook(stop_at(name)) for name, module in modules.items()]
    try:
        with torch.no_grad(), _evaluating(network):
            network(*inputs, **named)
    except _ReachedError as reached:
        return reached.found
    finally:
        for hook in hooks:
            hook.remove()
    return None


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and each part back into its own."""
    trained = [module for module in network.modules() if module.training]
    whole = len(trained) == sum(1 for _ in network.modules())
    network.eval()
    try:
        yield
    finally:
        if whole:
            network.train()  # some modules do more in it than to note the mode
        else:
            for module in trained:
                module.training = True


def _check_lists(value: Any, count: int, what: str) -> None:
    """Raise an InputError for a list of plain values that may have one for each example."""
    as_many = isinstance(value, list) and len(value) == count > 1
    if as_many and not any(isinstance(one, Tensor | Mapping | list | tuple) for one in value):
        raise InputError(
            f"{what} is a list of as many values as there are examples, {count}; give a tensor, or "
            "a tuple if it is the same for all examples"
        )
    children = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for child in children:
            _check_lists(child, count, what)


def _plain(leaf: Any, what: str) -> Any:
    """Give what is the same for all examples; raise an InputError if there may be tensors in it."""
    if leaf is None or isinstance(leaf, bool | int | float | str | torch.dtype | torch.device):
        return leaf
    raise InputError(
        f"{what} is a {type(leaf).__name__}, which cannot be taken apart by examples; ask for each "
        "task by tasks_of(...) and networks.for_task(...)"
    )


def _joined(found: Mapping[str, tuple[Tensor, Any]]) -> Any:
    """Put outputs together.

    Args:
        found: task -> which examples its network was run on, and what it gave.
    """
    flat = {task: _pytree.tree_flatten(output) for task, (_, output) in found.items()}
    first = next(iter(flat.values()))[1]
    if any(spec != first for _, spec in flat.values()):
        raise InputError(f"the networks of {', '.join(found)} give outputs of different structures")
    counts = {task: len(here) for task, (here, _) in found.items()}
    order = torch.cat([here for here, _ in found.values()]).argsort()
    columns = zip(*(leaves for leaves, _ in flat.values()), strict=True)
    return _pytree.tree_unflatten([_column(one, counts, order) for one in columns], first)


def _column(leaves: Sequence[Any], counts: Mapping[str, int], order: Tensor) -> Any:
    """Put one tensor of all outputs together; what is no tensor has to be the same in all."""
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        same = all(_plain(leaf, "an output") == leaves[0] for leaf in leaves)
        if not same:
            raise InputError(f"an output of one batch is not the same for all tasks: {leaves}")
        return leaves[0]
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else () for leaf in leaves]
    whole = all(s[:1] == (count,) for s, count in zip(shapes, counts.values(), strict=True))
    if not whole or len({shape[1:] for shape in shapes}) != 1:
        told = zip(counts.items(), shapes, strict=True)
        raise InputError(
            "outputs of one batch need one shape [examples, ...] for all tasks: "
            + ", ".join(f"{task} gives {list(s)} for {count}" for (task, count), s in told)
            + "; ask for each task by tasks_of(...) and networks.for_task(...)"
        )
    joined = torch.cat(list(leaves))
    return joined[order.to(joined.device)]
