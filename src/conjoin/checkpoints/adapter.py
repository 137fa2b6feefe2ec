"""A base checkpoint with a LoRA adapter in the layout of PEFT, seen as one checkpoint.

    LoRA:   V = W + s B A,    s = alpha / r,  or alpha / sqrt(r) with rank stabilization
    DoRA:   m V / ||V||,      of each output by itself

A is [r, in], B is [out, r], W is [out, in] and m is [out]. A convolution's weight is seen as the
matrix [out, in * kernel]; an embedding's change is (B A)^T.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685);
Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"
(arXiv:2312.03732); Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation"
(arXiv:2402.09353).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from conjoin.checkpoints.adapter_config import AdapterConfig, read_adapter_config
from conjoin.checkpoints.checkpoint import Checkpoint
from conjoin.checkpoints.descriptors import FileRange
from conjoin.checkpoints.file import open_file
from conjoin.checkpoints.folder import check_within
from conjoin.checkpoints.names import closest_name
from conjoin.checkpoints.spec import Spec
from conjoin.deferred import torch
from conjoin.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Adapted", "open_adapter"]

_PREFIX = "base_model.model."
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Ends of names in the adapter: (of A, of B, whether it is an embedding's).
_FACTORS = (
    (".lora_A.weight", ".lora_B.weight", False),
    (".lora_embedding_A", ".lora_embedding_B", True),
)
_LORA_BIAS = ".lora_B.bias"
_MAGNITUDE = ".lora_magnitude_vector"
# Changes are computed in blocks of whole rows with about this many elements, at places that do
# not depend on what is asked for: a matrix product may round otherwise in another shape.
_BLOCK = 2**16


@dataclass(frozen=True, slots=True)
class _Change:
    """What is added to one tensor: `scale * B @ A`, transposed if said so; or `scale * bias`.

    With a magnitude, of DoRA, the sum is then scaled: each row, or each column if transposed.
    """

    scale: float
    a: str
    b: str
    transposed: bool
    magnitude: str | None = None

    def factors(self, adapter: Checkpoint, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (left, right) in matrix form; the change is `scale * left @ right`."""
        a, b = (adapter[name].to(dtype) for name in (self.a, self.b))
        if self.transposed:
            return a.t(), b.t().contiguous()
        return b.reshape(b.shape[0], -1), a.reshape(a.shape[0], -1)


class Adapted(Checkpoint):
    """A base checkpoint with an adapter added when tensors are read; made by `open_adapter`.

    Changed tensors are computed in float32 (float64 if the base is), and rounded once to the
    base's dtype. The bits of an element do not depend on the range that is read. The norms of DoRA
    are those of whole tensors: the first range of a tensor that is read takes reading all of it.
    """

    def __init__(self, base: Checkpoint, adapter: Checkpoint, config: AdapterConfig) -> None:
        self._base, self._adapter, self._config = base, adapter, config
        self._replaced = _replacements(base, adapter, config)
        self._changes = _changes(base, adapter, config)
        _check_untied({**self._replaced, **self._changes}, base, adapter)
        self._factors: dict[str, Tensor] = {}
        self._specs = dict(base.specs)
        for name, key in self._replaced.items():
            # A head that only the adapter has keeps the adapter's dtype.
            self._specs.setdefault(name, adapter.specs[key])

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._base.metadata

    @property
    def source(self) -> str:
        return f"{self._base.source} + {self._config.path.parent}"

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self._base.files, self._config.path, *self._adapter.files)

    def reads_ranges(self, name: str) -> bool:
        self.spec_of(name)
        key = self._replaced.get(name)
        if key is not None:
            return self._adapter.reads_ranges(key)
        return self._base.reads_ranges(name)

    def in_file(self, name: str) -> FileRange | None:
        self.spec_of(name)
        untouched = name not in self._changes and name not in self._replaced
        return self._base.in_file(name) if untouched else None

    def __getitem__(self, name: str) -> Tensor:
        spec = self.spec_of(name)
        if name not in self._changes and name not in self._replaced:
            return self._base[name]
        return self.read(name).reshape(spec.shape)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        start, stop = self.checked_range(name, start, stop)
        spec = self._specs[name]
        original = self._original(name, start, stop)
        change = self._changes.get(name)
        if change is None or start == stop:
            return original.to(spec.dtype)
        result = original.to(_dtype_of(spec), copy=True)
        if change.a == change.b:  # of a bias
            bias = self._adapter.read(change.b, start, stop)
            return result.add_(bias.to(result.dtype) * change.scale).to(spec.dtype)
        factors = None if change.magnitude is None else self._factors_of(name, change)
        for at, added in self._blocks(change, result.dtype, start, stop):
            first, last = max(start, at), min(stop, at + added.numel())
            part = result[first - start : last - start]
            part.add_(added.reshape(-1)[first - at : last - at])
            if factors is not None:
                top = at // added.shape[1]
                each = factors if change.transposed else factors[top : top + len(added), None]
                part.mul_(each.expand_as(added).reshape(-1)[first - at : last - at])
        return result.to(spec.dtype)

    def _original(self, name: str, start: int, stop: int) -> Tensor:
        """Give what a change is added to: the base's tensor, or one that the adapter has whole."""
        key = self._replaced.get(name)
        checkpoint, key = (self._base, name) if key is None else (self._adapter, key)
        return checkpoint.read(key, start, stop)

    def _blocks(
        self, change: _Change, dtype: torch.dtype, start: int, stop: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Give what is added to a range, in blocks of whole rows, each with its first element."""
        left, right = change.factors(self._adapter, dtype)
        width, rows = right.shape[1], left.shape[0]
        height = max(1, _BLOCK // width)
        for top in range(start // width // height * height, rows, height):
            if top * width >= stop:
                break
            block = left[top : top + height].contiguous() @ right  # [height, width]
            yield top * width, block.mul_(change.scale)

    def _factors_of(self, name: str, change: _Change) -> Tensor:
        """Give m / ||V|| of every output, as DoRA has it; they are kept."""
        known = self._factors.get(name)
        if known is not None:
            return known
        spec = self._specs[name]
        parts: list[Tensor] = []
        total = torch.zeros(())
        for at, added in self._blocks(change, _dtype_of(spec), 0, spec.numel):
            original = self._original(name, at, at + added.numel())
            square = added.add_(original.to(added.dtype).view_as(added)).double().square_()
            if change.transposed:
                total = total + square.sum(0)
            else:
                parts.append(square.sum(1))
        norms = (total if change.transposed else torch.cat(parts)).sqrt()
        magnitudes = self._adapter[str(change.magnitude)].double().reshape(-1)
        if bool(((norms == 0) & (magnitudes != 0)).any()):
            raise CheckpointError(
                f"an output of {name!r} in {self.source} has no weight but 0, which has no "
                f"direction, so that it cannot be brought to the magnitude that {change.magnitude} "
                "says"
            )
        factors = torch.where(norms > 0, magnitudes / norms, 0.0).to(_dtype_of(spec))
        return self._factors.setdefault(name, factors)


def _dtype_of(spec: Spec) -> torch.dtype:
    """Give the dtype that a changed tensor is computed in."""
    return torch.float64 if spec.dtype == torch.float64 else torch.float32


def open_adapter(base: Checkpoint, folder: str | os.PathLike[str]) -> Adapted:
    """Open a LoRA or DoRA adapter on its base, as one checkpoint with the names of the base.

    `adapter_config.json` and `adapter_model.safetensors` (or `.bin`), as PEFT writes them: ranks
    and scales by module, rank stabilization, `fan_in_fan_out`, embeddings, convolutions, biases,
    modules that were trained whole and replace the base's, and magnitudes of DoRA. Other kinds of
    adapters are refused. Nothing but headers is read, until tensors are.

    Args:
        base: the model that the adapter was trained on.
        folder: of the adapter.

    Raises:
        CheckpointError: it is no such adapter, or one that this cannot compute; or it does not
            fit the base.

    >>> import json, tempfile
    >>> from conjoin.checkpoints import MemoryCheckpoint, save
    >>> base = MemoryCheckpoint({"fc.weight": torch.ones(2, 3)})
    >>> pair = {"A": torch.tensor([[1.0, 0.0, 2.0]]), "B": torch.tensor([[1.0], [0.0]])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2}
    ...     _ = Path(folder, "adapter_config.json").write_text(json.dumps(config))
    ...     tensors = {f"base_model.model.fc.lora_{x}.weight": pair[x] for x in "AB"}
    ...     _ = save(tensors, Path(folder, "adapter_model.safetensors"))
    ...     open_adapter(base, folder)["fc.weight"]
    tensor([[3., 1., 5.],
            [1., 1., 1.]])
    """
    folder = Path(folder)
    config = read_adapter_config(folder)
    weights = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder} has neither {' nor '.join(_WEIGHTS)}")
    return Adapted(base, open_file(check_within(folder, weights)), config)


def _replacements(base: Checkpoint, adapter: Checkpoint, config: AdapterConfig) -> dict[str, str]:
    """Tensors that the adapter has whole: name in the base -> name in the adapter."""
    replaced: dict[str, str] = {}
    for key, spec in adapter.specs.items():
        if not key.startswith(_PREFIX):
            raise CheckpointError(
                f"tensor {key!r} in {adapter.source} does not begin with {_PREFIX!r}, as PEFT's do"
            )
        if ".lora_" in key or ".original_module." in key:  # the latter are the base's own values
            continue
        name = key.removeprefix(_PREFIX)
        for part in (".base_layer.", ".modules_to_save."):
            name = name.replace(part, ".")
        here = base.specs.get(name)
        if here is None and not config.saves(name):
            raise CheckpointError(
                f"tensor {key!r} in {adapter.source} is neither part of a LoRA pair nor in the "
                f"base {base.source} as {name!r}{_closest(name, base)}"
            )
        if here is not None and here.shape != spec.shape:
            raise CheckpointError(
                f"tensor {key!r} in {adapter.source} is to replace {name!r} of {base.source}, but "
                f"is {list(spec.shape)}, not {list(here.shape)}; if the vocabulary was extended, "
                "resize the base first"
            )
        # An embedding that is saved twice has one value.
        replaced.setdefault(name, key)
    return replaced


def _changes(base: Checkpoint, adapter: Checkpoint, config: AdapterConfig) -> dict[str, _Change]:
    """What is added to which tensor of the base."""
    changes: dict[str, _Change] = {}
    used: set[str] = set()
    for key in adapter.specs:
        for end_a, end_b, is_embedding in _FACTORS:
            if not key.endswith(end_a):
                continue
            module = key.removeprefix(_PREFIX).removesuffix(end_a)
            other = key.removesuffix(end_a) + end_b
            if other not in adapter.specs:
                raise CheckpointError(f"{adapter.source} has {key!r}, but not its pair {other!r}")
            name = f"{module}.weight"
            pair = _pair(name, key, other, is_embedding, base, adapter, config)
            changes[name] = _with_magnitude(pair, module, base, adapter, config)
            used |= {key, other, f"{_PREFIX}{module}{_MAGNITUDE}"}
        if key.endswith(_LORA_BIAS):
            module = key.removeprefix(_PREFIX).removesuffix(_LORA_BIAS)
            name = f"{module}.bias"
            _check_target(name, base, adapter, key)
            if adapter.specs[key].shape != base.specs[name].shape:
                raise CheckpointError(_misfit(name, base, adapter, key))
            changes[name] = _Change(config.scale(module), key, key, transposed=False)
            used.add(key)
    unknown = [key for key in adapter.specs if ".lora_" in key and key not in used]
    if unknown:
        raise CheckpointError(
            f"tensor {unknown[0]!r} in {adapter.source} is unknown here; merge the adapter into "
            "its base by PEFT's merge_and_unload() and pass the result"
        )
    return changes


def _pair(
    name: str,
    a: str,
    b: str,
    is_embedding: bool,
    base: Checkpoint,
    adapter: Checkpoint,
    config: AdapterConfig,
) -> _Change:
    _check_target(name, base, adapter, a, b)
    module = name.removesuffix(".weight")
    shape, of_a, of_b = base.specs[name].shape, adapter.specs[a].shape, adapter.specs[b].shape
    rank = config.rank(module)
    if len(of_a) < 2 or len(of_b) < 2 or of_a[0] != of_b[1] or of_b[2:] != (1,) * len(of_b[2:]):
        raise CheckpointError(_misfit(name, base, adapter, a, b))
    if of_a[0] != rank:
        raise CheckpointError(
            f"{a!r} in {adapter.source} is {list(of_a)}, but {config.path} says rank {rank} for "
            f"{module!r}; the scale follows from the rank, so the two files must agree"
        )
    direct, turned = (of_b[0], *of_a[1:]), (*of_a[1:], of_b[0])
    if is_embedding:
        fits, transposed = turned == shape, True
    else:
        # Square tensors go by the config; else the shape shows what PEFT knew from the module.
        transposed = config.fan_in_fan_out and len(shape) == 2 and turned == shape
        fits = direct == shape or transposed
    if not fits:
        hint = ""
        if turned == shape:
            hint = '; it fits transposed: is "fan_in_fan_out": true missing in adapter_config.json?'
        raise CheckpointError(_misfit(name, base, adapter, a, b) + hint)
    return _Change(config.scale(module), a, b, transposed)


def _with_magnitude(
    change: _Change, module: str, base: Checkpoint, adapter: Checkpoint, config: AdapterConfig
) -> _Change:
    """Add the magnitude of DoRA, if the config says that there is one."""
    key = f"{_PREFIX}{module}{_MAGNITUDE}"
    if config.dora != (key in adapter.specs):
        says, has = ("true", "lacks") if config.dora else ("not true", "has")
        raise CheckpointError(
            f'"use_dora" is {says} in {config.path}, but {adapter.source} {has} {key!r}; the two '
            "files must agree"
        )
    if not config.dora:
        return change
    name = f"{module}.weight"
    shape = base.specs[name].shape
    outputs = shape[-1] if change.transposed else shape[0]
    # Of a convolution it is [1, out, 1, ...].
    if [size for size in adapter.specs[key].shape if size != 1] != [outputs][: outputs != 1]:
        raise CheckpointError(_misfit(name, base, adapter, key))
    return replace(change, magnitude=key)


def _check_target(name: str, base: Checkpoint, adapter: Checkpoint, *keys: str) -> None:
    spec = base.specs.get(name)
    if spec is None:
        raise CheckpointError(
            f"{' and '.join(map(repr, keys))} in {adapter.source} change the tensor {name!r}, "
            f"which {base.source} lacks{_closest(name, base)}; pass the model that the adapter was "
            "trained on"
        )
    module = name.rpartition(".")[0]
    scales = [f"{name}_scale_inv", f"{name}_scale", f"{module}.weight_scale", f"{module}.scales"]
    if not spec.dtype.is_floating_point or any(scale in base.specs for scale in scales):
        raise CheckpointError(
            f"{name!r} in {base.source} is quantized ({spec.dtype}), so {keys[0]!r} of "
            f"{adapter.source} cannot be added to it; pass the base that is not quantized"
        )


def _check_untied(changed: Mapping[str, object], base: Checkpoint, adapter: Checkpoint) -> None:
    for name, spec in base.specs.items():
        kept = spec.alias_of
        if kept is not None and (name in changed or kept in changed):
            raise CheckpointError(
                f"{adapter.source} changes {name!r} or {kept!r}, which are tied in {base.source}; "
                "tied tensors cannot get different values: untie them in the base first"
            )


def _misfit(name: str, base: Checkpoint, adapter: Checkpoint, *keys: str) -> str:
    found = " and ".join(f"{key!r} {list(adapter.specs[key].shape)}" for key in keys)
    return (
        f"{found} in {adapter.source} do not fit {name!r} {list(base.specs[name].shape)} of "
        f"{base.source}"
    )


def _closest(name: str, base: Checkpoint) -> str:
    close = closest_name(name, base.specs)
    return "" if close is None else f" (closest: {close!r})"
