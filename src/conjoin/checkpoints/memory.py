"""Checkpoints over tensors that are in memory already."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.names import describe_name_difference
from conjoin.checkpoints.spec import Spec, kind_by_name
from conjoin.deferred import torch
from conjoin.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MemoryCheckpoint"]


class MemoryCheckpoint(Checkpoint):
    """Named tensors in memory, for instance a state dict.

    Tensors are held, not copied, and handed out detached. Two names are tied when their tensors
    are the same view of the same memory: equal address, shape, strides and dtype. Views that
    merely overlap are ordinary tensors. Empty tensors and tensors on the meta device have no
    memory to compare, so they are tied only if they are the same object.

    Args:
        tensors: name -> dense tensor.
        specs: what is known already, for the same names, shapes and dtypes. Default: kinds by
            name (see `kind_by_name`), ties as found.
        source: what to call the tensors in messages.
        metadata: free-form strings.

    Raises:
        CheckpointError: a name is no string, a value is no dense tensor, or `specs` does not fit.

    >>> weight = torch.zeros(2, 3)
    >>> checkpoint = MemoryCheckpoint({"encoder.weight": weight, "decoder.weight": weight})
    >>> checkpoint.specs["decoder.weight"].alias_of
    'encoder.weight'
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        specs: Mapping[str, Spec] | None = None,
        *,
        source: str = "memory",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        given = dict(tensors)
        for name, value in given.items():
            _check_entry(name, value, source)
        if specs is None:
            self._specs = _specs_of(given, source)
        else:
            self._specs = dict(specs)
            _check_specs(given, self._specs, source)
        # Without this, whatever is computed from the tensors would record a graph for autograd.
        self._tensors = {
            name: tensor if _is_plain(tensor) else tensor.detach() for name, tensor in given.items()
        }
        self._source = source
        self._metadata = MappingProxyType(dict(metadata or {}))

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    @property
    def source(self) -> str:
        return self._source

    def __getitem__(self, name: str) -> Tensor:
        self.spec_of(name)
        return self._tensors[name]


def _check_entry(name: object, value: object, source: str) -> None:
    if not isinstance(name, str):
        raise CheckpointError(
            f"the key {name!r} in {source} is of type {type(name).__name__}; "
            "names of tensors are strings"
        )
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{name!r} in {source} is of type {type(value).__name__}, not a tensor; "
            + _advice(name, value)
        )
    if torch.nn.parameter.is_lazy(value):
        raise CheckpointError(
            f"{name!r} in {source} is not initialized: its module is lazy and does not know its "
            "shape yet; run one batch through the model first"
        )
    if value.layout != torch.strided or value.is_quantized:
        what = "quantized" if value.is_quantized else f"of layout {value.layout}"
        call = "dequantize()" if value.is_quantized else "to_dense()"
        raise CheckpointError(f"{name!r} in {source} is {what}; pass a dense tensor, see {call}")


def _advice(name: str, value: object) -> str:
    if name.rpartition(".")[2] == "_extra_state":
        return (
            "it is the extra state of a module, which cannot be combined; remove the key, and "
            "copy the extra state from one of the models afterwards"
        )
    if isinstance(value, Mapping):
        return f"if that is the state dict, pass it alone: [{name!r}]"
    return "pass names and tensors only, for instance model.state_dict()"


def _specs_of(tensors: Mapping[str, Tensor], source: str) -> dict[str, Spec]:
    canonical: dict[Hashable, str] = {}
    specs = {}
    for name, tensor in tensors.items():
        first = canonical.setdefault(_place(tensor), name)
        alias_of = None if first == name else first
        kind = kind_by_name(first, tensor.dtype, tuple(tensor.shape))
        specs[name] = Spec(tuple(tensor.shape), tensor.dtype, kind, alias_of, source)
    return specs


def _place(tensor: Tensor) -> Hashable:
    """A key that is equal for two tensors exactly if one is the other."""
    # The address, not the storage object: two storages can be windows on the same memory.
    address = 0 if tensor.is_meta or tensor.numel() == 0 else tensor.data_ptr()
    if address == 0:
        return id(tensor)
    layout = tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
    return address, *layout, tensor.is_conj(), tensor.is_neg()


def _check_specs(tensors: Mapping[str, Tensor], specs: Mapping[str, Spec], source: str) -> None:
    difference = describe_name_difference(
        tensors, specs, first_label="the tensors", second_label="the specs"
    )
    if difference:
        raise CheckpointError(f"tensors and specs of {source} do not fit: {difference}")
    for name, tensor in tensors.items():
        spec = specs[name]
        if (tuple(tensor.shape), tensor.dtype) != (spec.shape, spec.dtype):
            raise CheckpointError(
                f"{name!r} in {source} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"but its spec says {spec.shape} {spec.dtype}"
            )


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is torch.Tensor and not tensor.requires_grad
