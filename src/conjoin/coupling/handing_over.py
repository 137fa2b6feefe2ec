"""Coupled models -> one module: a single network, or one trunk with the private heads."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from conjoin.batches import Data, first_examples, run_model
from conjoin.errors import InputError
from conjoin.evaluation import evaluating
from conjoin.merging import merge
from conjoin.modules import MultiHead, TaskNetworks, share_parameters
from conjoin.repairing import has_batchnorm, reestimate_batchnorm

__all__ = ["hand_over"]


def hand_over(
    models: Mapping[str, nn.Module], private: Sequence[str], data: Sequence[Data]
) -> nn.Module:
    """Make one module out of coupled models; see `Coupling.merge`.

    Args:
        models: by name; not changed.
        private: names of the parameters that each model keeps.
        data: of each model, in their order.
    """
    modules = [copy.deepcopy(module) for module in models.values()]
    needs_statistics = has_batchnorm(modules[0])
    if data and len(data) != len(models):
        raise InputError(
            f"there are {len(models)} models and data of {len(data)}: give a loader for each of "
            f"{', '.join(map(repr, models))}, in this order"
        )
    if needs_statistics and not data:
        raise InputError(
            "the models have BatchNorm: give data of each, so that the statistics of the merged "
            "network can be estimated: coupling.merge(loader_a, loader_b)"
        )
    if not private:
        merged = merge(modules)
        return reestimate_batchnorm(merged, *data) if needs_statistics else merged
    path = _common_module(private)
    head_at_end = False
    if path and all(_owns_all(module, path, private) for module in modules):
        if not data:
            raise InputError(
                f"to see whether {path!r} is the end of the network, give data of each model: "
                "coupling.merge(loader_a, loader_b)"
            )
        head_at_end = _is_at_end(modules[0], path, data[0])
    if not head_at_end:
        return _networks(models, modules, private, data, needs_statistics)
    # The head that the merged network would have is taken from one model, and then left out.
    keep = dict.fromkeys(
        (f"{path}.{name}" for name in modules[0].get_submodule(path).state_dict()), 0
    )
    merged = merge(modules, keep=keep)
    heads = {n: m.get_submodule(path) for n, m in zip(models, modules, strict=True)}
    trunk = copy.deepcopy(merged)
    _put(trunk, path, nn.Identity())
    if has_batchnorm(trunk):
        trunk = reestimate_batchnorm(trunk, *data)
    return MultiHead(trunk, heads)


def _networks(
    models: Mapping[str, nn.Module],
    modules: Sequence[nn.Module],
    private: Sequence[str],
    data: Sequence[Data],
    needs_statistics: bool,
) -> TaskNetworks:
    """Give every model its own network, of which the coupled parameters are one tensor."""
    taken = set(private)
    parameters = [dict(module.named_parameters()) for module in modules]
    with torch.no_grad():
        for name in (n for n in parameters[0] if n not in taken):
            same = [known[name] for known in parameters]
            dtype = torch.promote_types(same[0].dtype, torch.float32)
            mean = sum((t.detach().to(dtype) for t in same[1:]), same[0].detach().to(dtype))
            same[0].copy_(mean / len(same))
    networks = {}
    for number, (name, module) in enumerate(zip(models, modules, strict=True)):
        shared = {n: p for n, p in parameters[0].items() if n not in taken}
        with torch.no_grad():
            for tensor, parameter in shared.items():
                parameters[number][tensor].copy_(parameter)
        fresh = module
        if needs_statistics and has_batchnorm(module):
            fresh = reestimate_batchnorm(module, data[number])
        share_parameters(fresh, shared)
        networks[name] = fresh
    return TaskNetworks(networks)


def _common_module(names: Sequence[str]) -> str:
    """Give the path of the smallest module that has all of these parameters; "" for the root."""
    paths = [name.split(".")[:-1] for name in names]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _owns_all(module: nn.Module, path: str, private: Sequence[str]) -> bool:
    """Whether a model has the part, and its parameters are exactly the private ones."""
    own = {name for name, _ in module.named_parameters() if name.startswith(f"{path}.")}
    return own == set(private)


def _is_at_end(module: nn.Module, path: str, data: Data) -> bool:
    """Find by running whether the network is what the part makes of what comes before it."""
    example = next(iter(first_examples(data, 2)), None)
    if example is None:
        raise InputError("the data gave no batch")
    trunk = copy.deepcopy(module)
    _put(trunk, path, nn.Identity())
    with torch.no_grad(), evaluating([module, trunk]):
        whole = run_model(module, example)
        try:
            parts = module.get_submodule(path)(run_model(trunk, example))
        except Exception:  # whatever the user's code does without its head
            return False
    return (
        isinstance(whole, Tensor)
        and isinstance(parts, Tensor)
        and whole.shape == parts.shape
        and bool(torch.allclose(whole, parts, rtol=1e-4, atol=1e-5, equal_nan=True))
    )


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, part)
