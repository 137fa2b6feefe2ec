"""Coupled models -> one module: a single network, or one trunk with the private heads."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.batches import Data, Inputs, device_of, run_model, with_example
from conjoin.errors import InputError
from conjoin.evaluation import evaluating
from conjoin.merging import merge
from conjoin.modules import MultiHead, TaskNetworks, share_parameters
from conjoin.repairing import has_batchnorm, reestimate_batchnorm

__all__ = ["hand_over"]

SIZES = (1e-12, 1e-3, 1.0, 1e3, 1e30)
"""Of numbers in the place of a part's outputs: small ones show a sum, large ones a bound."""


def hand_over(
    models: Mapping[str, nn.Module], private: Sequence[str], data: Sequence[Data]
) -> nn.Module:
    """Make one module out of coupled models; see `Coupling.merge`.

    Args:
        models: by name; not changed.
        private: names of the parameters that each model keeps.
        data: of each model, in their order.
    """
    modules = _on_one_device([copy.deepcopy(module) for module in models.values()])
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
        examples, data = zip(*map(_first_example, data), strict=True)
        head_at_end = all(
            _is_at_end(module, path, example)
            for module, example in zip(modules, examples, strict=True)
        )
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


def _on_one_device(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Bring models to where the first one is; one may be spread over devices as all are."""
    home = device_of(modules[0])
    return [one if device_of(one) == home else one.to(home) for one in modules]


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
    """Whether a model has the part, and its parameters are exactly the private ones.

    A weight that is tied has several names: one that is tied to another part is no head's own.
    """
    named = list(module.named_parameters(remove_duplicate=False))
    inside = {id(parameter) for name, parameter in named if name.startswith(f"{path}.")}
    outside = {id(parameter) for name, parameter in named if not name.startswith(f"{path}.")}
    return inside == {id(p) for name, p in named if name in set(private)} and not inside & outside


def _first_example(data: Data) -> tuple[Inputs, Data]:
    found, data = with_example(data)
    if found is None:
        raise InputError("the data gave no batch")
    return found, data


def _is_at_end(module: nn.Module, path: str, example: Inputs) -> bool:
    """Find by running whether the network is what the part makes of what comes before it."""
    trunk = copy.deepcopy(module)
    _put(trunk, path, nn.Identity())
    with torch.no_grad(), evaluating([module, trunk]):
        whole = run_model(module, example)
        try:
            parts = module.get_submodule(path)(run_model(trunk, example))
        except Exception:  # whatever the user's code does without its head
            return False
        return (
            _are_alike(whole, parts)
            and bool(torch.allclose(whole, parts, rtol=1e-4, atol=1e-5, equal_nan=True))
            and _gives_what_the_part_gives(module, path, example)
        )


def _gives_what_the_part_gives(module: nn.Module, path: str, example: Inputs) -> bool:
    """Whether the part is the last thing that runs: what it gives is what the network gives.

    Its outputs themselves do not tell: a ReLU leaves positive ones as they are. So other numbers
    take their place, of both signs and several sizes.
    """
    return all(_gives(module, path, example, sign * size) for size in SIZES for sign in (1.0, -1.0))


def _gives(module: nn.Module, path: str, example: Inputs, size: float) -> bool:
    """Whether random numbers in the place of a part's output are what the network gives."""
    given: list[Tensor] = []

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        given.append(_random_like(output, size))
        return given[-1].clone()  # what follows may work in place

    handle = module.get_submodule(path).register_forward_hook(replace)
    try:
        whole = run_model(module, example)
    except Exception:  # whatever the user's code does with such numbers
        return False
    finally:
        handle.remove()
    return len(given) == 1 and _are_alike(whole, given[0]) and torch.equal(whole, given[0])


def _random_like(output: Tensor, size: float) -> Tensor:
    """Give the same normal numbers whenever it is called, times `size` as far as a dtype goes."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.promote_types(output.dtype, torch.float32)
    largest = float(torch.finfo(output.dtype).max) ** 0.75
    normal = torch.randn(output.shape, generator=generator, dtype=dtype)
    return normal.mul_(max(-largest, min(size, largest))).to(output)


def _are_alike(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, part)
