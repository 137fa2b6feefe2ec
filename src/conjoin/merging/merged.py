"""A merge as a lazy checkpoint: nothing is computed until a tensor is asked for.

Each kind of tensor has one rule:

    weight     the method, in float32 (float64 and complex stay)
    statistic  pooled moments with shares s_i = |a_i| / sum |a|:
               mean = sum s_i m_i,   var = sum s_i (v_i + (m_i - mean)^2)   (never negative)
    counter    the maximum
    constant   must agree
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from conjoin.checkpoints import Checkpoint, Kind, Spec
from conjoin.errors import CheckpointError, MethodError, MismatchError, NonFiniteError
from conjoin.merging.agreement import agree, label
from conjoin.methods import Method, Need

__all__ = ["Merged"]


class Merged(Checkpoint):
    """The merge of `sources` by `method`.

    Args:
        sources: one or more checkpoints that fit together.
        method: with `parameters` that it has checked.
        weights: one number per source, or None.
        base: the common ancestor, or None.
        kept: name -> number of the source that it is taken from unchanged.
        dtype: of weights and statistics in the result; None keeps that of the sources.
        allow_nonfinite: whether NaN and infinity pass.
        seed: of random methods.

    Raises:
        MismatchError: the sources do not fit together.
    """

    def __init__(
        self,
        sources: Sequence[Checkpoint],
        method: Method,
        *,
        parameters: Mapping[str, Any],
        weights: Sequence[float] | None,
        base: Checkpoint | None,
        kept: Mapping[str, int],
        dtype: torch.dtype | None,
        allow_nonfinite: bool,
        seed: int,
    ) -> None:
        self._inputs = [*sources] if base is None else [*sources, base]
        self._specs = agree(self._inputs, kept, dtype)
        self._sources, self._method, self._kept = list(sources), method, kept
        self._parameters, self._weights, self._has_base = parameters, weights, base is not None
        self._allow_nonfinite, self._seed = allow_nonfinite, seed
        sizes = [abs(weight) for weight in weights] if weights else [1.0] * len(sources)
        self._shares = [size / sum(sizes) for size in sizes] if sum(sizes) else sizes

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self._specs

    @property
    def metadata(self) -> Mapping[str, str]:
        entries = {"conjoin.method": self._method.name}
        if self.pooled:
            entries["conjoin.statistics"] = "pooled from the inputs; re-estimate them on data"
        return entries

    @property
    def pooled(self) -> list[str]:
        """Names of the statistics that were pooled and should be re-estimated on data."""
        if len(self._sources) < 2:
            return []
        return [
            name
            for name, spec in self._specs.items()
            if spec.kind is Kind.STATISTIC and name not in self._kept
        ]

    def __getitem__(self, name: str) -> Tensor:
        spec = self.spec_of(name)
        if name in self._kept:
            number = self._kept[name]
            tensor = self._sources[number][name]
            self._check_finite(name, tensor, label(number, self._sources[number]))
            return tensor.to(spec.dtype)
        name = spec.alias_of or name
        if spec.kind is Kind.WEIGHT:
            return self._by_method(name, self._tensors(name))
        if spec.kind is Kind.STATISTIC:
            return self._finish(name, self._pool(name))
        values = self._tensors(name, inputs=self._sources)
        if spec.kind is Kind.COUNTER:
            return torch.stack(values).amax(0).to(spec.dtype)
        return self._agreed(name, values)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        spec = self.spec_of(name)
        in_chunks = self._method.elementwise and not self._method.is_random
        if name in self._kept or spec.kind is not Kind.WEIGHT or not in_chunks:
            return super().read(name, start, stop)
        span = self.checked_range(name, start, stop)
        return self._by_method(name, self._tensors(spec.alias_of or name, span=span))

    def _tensors(
        self,
        name: str,
        *,
        span: tuple[int, int] | None = None,
        inputs: Sequence[Checkpoint] | None = None,
    ) -> list[Tensor]:
        """Give the tensor (or a flat range of it) of every input, checked and on one device."""
        tensors: list[Tensor] = []
        for number, source in enumerate(self._inputs if inputs is None else inputs):
            tensor = source[name] if span is None else source.read(name, *span)
            self._check_finite(name, tensor, label(number, source))
            tensors.append(tensor)
        device = tensors[0].device
        for number, tensor in enumerate(tensors):
            if tensor.is_meta != tensors[0].is_meta:
                empty = number if tensor.is_meta else 0
                raise CheckpointError(
                    f"{name!r} of {label(empty, self._inputs[empty])} is on the meta device and "
                    "has no data; load its weights first"
                )
        return [tensor.to(device) for tensor in tensors]

    def _by_method(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        working = [tensor.to(_working_dtype(tensors)) for tensor in tensors]
        keywords = dict(self._parameters)
        if self._has_base:
            keywords["base"] = working.pop()
        if Need.WEIGHTS in self._method.needs:
            keywords["weights"] = self._weights or [1.0] * len(self._sources)
        if self._method.summarize is not None:
            keywords["summary"] = self._summary
        if self._method.is_random:
            keywords["generator"] = self._generator(name)
        result = self._method.function(working, **keywords)
        if not isinstance(result, Tensor):
            raise MethodError(
                f"{self._method.name} gave {type(result).__name__} for {name!r}, not a tensor"
            )
        if result.shape != tensors[0].shape:
            raise MethodError(
                f"{self._method.name} gave shape {list(result.shape)} for {name!r}, "
                f"whose shape is {list(tensors[0].shape)}"
            )
        return self._finish(name, result)

    def _finish(self, name: str, result: Tensor) -> Tensor:
        result = result.detach().to(self._specs[name].dtype)
        self._check_finite(name, result, "the result (overflow?)")
        return result

    def _pool(self, name: str) -> Tensor:
        tensors = self._tensors(name, inputs=self._sources)
        working = [tensor.to(_working_dtype(tensors)) for tensor in tensors]
        pooled = self._shared(working)
        prefix, _, last = name.rpartition("running_")
        if last != "var" or f"{prefix}running_mean" not in self._specs:
            return pooled
        means = self._tensors(f"{prefix}running_mean", inputs=self._sources)
        means = [mean.to(pooled.dtype) for mean in means]
        centre = self._shared(means)
        return pooled + self._shared([(mean - centre).square() for mean in means])

    def _shared(self, tensors: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(tensors[0])
        for share, tensor in zip(self._shares, tensors, strict=True):
            total += share * tensor
        return total

    def _agreed(self, name: str, values: Sequence[Tensor]) -> Tensor:
        first = values[0]
        for number, value in enumerate(values[1:], start=1):
            if first.is_meta or torch.equal(first, value):
                continue
            differs = first != value
            if first.is_floating_point():
                differs &= ~(first.isnan() & value.isnan())
            if count := int(differs.sum()):
                raise MismatchError(
                    f"{name!r} is a constant, and {count} of its {first.numel()} elements differ "
                    f"between {label(0, self._sources[0])} and "
                    f"{label(number, self._sources[number])}; if it was trained, say so: "
                    f"kinds={{{name!r}: 'weight'}}; else choose: keep={{{name!r}: 0}}"
                )
        return first

    def _check_finite(self, name: str, tensor: Tensor, where: str) -> None:
        floating = tensor.is_floating_point() or tensor.is_complex()
        # A constant may be a mask of minus infinity; it only has to agree.
        constant = self._specs[name].kind is Kind.CONSTANT
        if self._allow_nonfinite or tensor.is_meta or constant or not floating:
            return
        # A sum is a hundred times faster than isfinite, and NaN and infinity always reach it. It
        # may overflow without them; then the slow way decides.
        if tensor.dtype.itemsize == 1 or tensor.dtype == torch.complex32:
            tensor = tensor.to(_working_dtype([tensor]))  # these have no sums of their own
        if torch.isfinite(tensor.sum()):
            return
        finite = torch.isfinite(tensor)
        if not finite.all():
            nans = int(torch.isnan(tensor).sum())
            infinite = int((~finite).sum()) - nans
            raise NonFiniteError(
                f"{name!r} of {where} has {nans} NaN and {infinite} infinite among "
                f"{tensor.numel()} values; mend or leave out that model, or pass "
                "allow_nonfinite=True"
            )

    @cached_property
    def _summary(self) -> Any:
        def parts() -> Iterator[list[Tensor]]:
            for name, spec in self._specs.items():
                if spec.kind is Kind.WEIGHT and spec.alias_of is None and name not in self._kept:
                    tensors = self._tensors(name)
                    yield [tensor.to(_working_dtype(tensors)) for tensor in tensors]

        assert self._method.summarize is not None
        return self._method.summarize(parts(), **self._parameters)

    def _generator(self, name: str) -> torch.Generator:
        # From the seed and the name alone: order, resuming and parallel work never change a bit.
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _working_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        if tensor.dtype.is_complex or tensor.dtype == torch.float64:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
