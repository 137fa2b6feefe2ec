"""Putting back the activation statistics that merging has made wrong."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from conjoin.arguments import as_module, check_weights
from conjoin.batches import (
    Data,
    Inputs,
    are_finite,
    batches,
    concatenate,
    device_of,
    inputs_of,
    inputs_on,
    run_model,
    size_of,
)
from conjoin.errors import DataError, InputError, NonFiniteError
from conjoin.merging import POOLED

__all__ = ["has_batchnorm", "needs_reestimation", "reestimate_batchnorm", "running_means"]

M = TypeVar("M", bound=nn.Module)


def needs_reestimation(module: nn.Module) -> list[str]:
    """Name the normalization layers whose statistics a merge has pooled and nobody re-estimated.

    >>> from conjoin.merging import merge
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> needs_reestimation(merge([net, net]))
    ['1']
    """
    parts = as_module(module).named_modules()
    return [name for name, part in parts if getattr(part, POOLED, False)]


def has_batchnorm(module: nn.Module) -> bool:
    """Whether there are statistics that `reestimate_batchnorm` would re-estimate.

    >>> has_batchnorm(nn.Sequential(nn.BatchNorm1d(1))), has_batchnorm(nn.LayerNorm(1))
    (True, False)
    """
    return bool(_layers_with_statistics(module))


def running_means(module: nn.Module) -> list[str]:
    """Name the running means that `reestimate_batchnorm` would re-estimate.

    >>> running_means(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))
    ['1.running_mean']
    """
    return [
        f"{name}.running_mean" if name else "running_mean"
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    ]


def reestimate_batchnorm(module: M, *data: Data, batch_size: int = 250) -> M:
    """Give a copy of `module` whose BatchNorm statistics are those of `data`.

    Those of InstanceNorm with ``track_running_stats`` too.

    Running means and variances become averages over all calls of the layer, weighted by the number
    of values that a channel has in them (n_t in call t), as if momentum were
    ``n_t / (n_1 + ... + n_t)``. Several loaders are one mixture:
    each step concatenates one batch of each, so that the statistics belong to one network that
    does not know the task; a shorter loader just ends. Labels are not used. Dropout is off, and
    nothing but the running statistics and their counters changes; a layer that no batch reaches
    stays as it was.

    Args:
        module: not changed.
        data: one or several; each a loader of inputs or of ``(inputs, ...)``, or a pair of
            tensors ``(inputs, labels)``.
        batch_size: of each part, used for tensors.

    Raises:
        InputError: the module has no BatchNorm with running statistics.
        DataError: no batch, a batch that holds no tensor, or batches of one example for a layer
            that needs more.
        NonFiniteError: the data have NaN or infinity.

    Source: stochastic weight averaging (Izmailov et al., 2018, arXiv:1803.05407) re-estimates so;
    for merged networks, REPAIR (Jordan et al., ICLR 2023, arXiv:2211.08403).

    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> x = torch.tensor([[0.0], [2.0], [4.0]])
    >>> fresh = reestimate_batchnorm(net, (x, torch.zeros(3)))
    >>> fresh[0].running_mean, fresh[0].running_var
    (tensor([2.]), tensor([4.]))
    """
    check_weights(as_module(module))
    if not data:
        raise InputError("re-estimating statistics needs at least one loader")
    result = copy.deepcopy(module)
    layers = _layers_with_statistics(result)
    if not layers:
        raise InputError(
            f"{type(module).__name__} has no BatchNorm with running statistics, so there is "
            "nothing to re-estimate"
        )
    modes = [(part, part.training) for part in result.modules()]
    momenta = [layer.momentum for layer in layers]
    before = [
        {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}
        for layer in layers
    ]
    result.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    seen, reached = 0, dict[nn.Module, int]()
    hooks = [
        layer.register_forward_pre_hook(_counted(layer, reached), with_kwargs=True)
        for layer in layers
    ]
    with torch.no_grad():
        for inputs in _mixed(data, batch_size, device_of(result)):
            if not are_finite(inputs):
                raise NonFiniteError(
                    f"the data have NaN or infinity, among examples {seen} to "
                    f"{seen + size_of(inputs) - 1}; statistics of them would be NaN"
                )
            seen += size_of(inputs)
            try:
                run_model(result, inputs)
            except ValueError as error:
                if "more than 1 value per channel" in str(error):
                    raise DataError("statistics need batches of two examples or more") from error
                raise
    if seen == 0:
        raise DataError("the data gave no batch; a loader can be used up: pass a list")
    for hook in hooks:
        hook.remove()
    for part, training in modes:
        part.training = training
    for layer, momentum, old in zip(layers, momenta, before, strict=True):
        layer.momentum = momentum
        if layer not in reached:  # no batch came by: it stays as it was
            for name, buffer in layer.named_buffers(recurse=False):
                buffer.copy_(old[name])
        elif hasattr(layer, POOLED):
            delattr(layer, POOLED)
    return result


def _counted(
    layer: _BatchNorm | _InstanceNorm, reached: dict[nn.Module, int]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """Give a hook by which every call of a layer counts by its values.

    A layer may be called twice for a batch, or only for some.
    """

    def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        values: Tensor = inputs[0] if inputs else named["input"]
        if isinstance(layer, _InstanceNorm):  # each example has statistics, which are averaged
            count = 1 if values.dim() == layer._get_no_batch_dim() else len(values)
        else:
            count = values.numel() // max(values.shape[1], 1)
        reached[layer] = reached.get(layer, 0) + count
        layer.momentum = count / max(reached[layer], 1)

    return before


def _layers_with_statistics(module: nn.Module) -> list[_BatchNorm | _InstanceNorm]:
    parts = (part for part in module.modules() if isinstance(part, _BatchNorm | _InstanceNorm))
    return [part for part in parts if part.running_mean is not None]


def _mixed(parts: Sequence[Data], batch_size: int, device: torch.device | None) -> Iterable[Inputs]:
    iterators = [iter(batches(part, batch_size)) for part in parts]
    while iterators:
        inputs, going = [], []
        for iterator in iterators:
            batch = next(iterator, None)
            if batch is not None:
                inputs.append(inputs_on(inputs_of(batch), device))  # parts may lie on several
                going.append(iterator)
        filled = [part for part in inputs if size_of(part)]
        if filled:
            yield concatenate(filled)
        iterators = going
