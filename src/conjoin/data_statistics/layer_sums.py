"""Moments and Gram matrices of all layers, summed up as batches run through the model."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor
from torch.fx import Node

from conjoin.batches import Inputs
from conjoin.checkpoints import match_names
from conjoin.data_statistics.execution import Execution, Program
from conjoin.data_statistics.features import rows_of_inputs, rows_of_outputs
from conjoin.data_statistics.layers import Layer, layers_of
from conjoin.data_statistics.sums import Moments
from conjoin.errors import InputError, NonFiniteError

__all__ = ["LayerSums"]

Seen = tuple[str, Node, Callable[[Tensor], None]]
"""Layer, whose value it is, what is done with it."""


class LayerSums:
    """What the layers of a model see and give.

    Args:
        program: the traced model, or one of the same structure.
        tensors: the model's weights and buffers by name.
        patterns: names or patterns of layers.
        what: ``moments``, ``gram`` or both.
        memory: bytes that Gram matrices may take.

    Raises:
        InputError: no layer of such a name, or Gram matrices beyond `memory`.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Tensor],
        patterns: str | Sequence[str],
        what: Sequence[str],
        memory: int,
    ) -> None:
        self._program, self._tensors = program, tensors
        found = layers_of(program.trace)
        names = [layer.name for layer in found]
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        if not found:
            raise InputError(
                "the model has no layer: no linear layer, convolution or normalization whose "
                "weight is used once"
            )
        chosen = {name for pattern in wanted for name in match_names(pattern, names)}
        self._layers = [layer for layer in found if layer.name in chosen]
        self.names = [layer.name for layer in self._layers]
        self._moments, self._gram = "moments" in what, "gram" in what
        self._sums: dict[str, Moments] = {}
        self._inputs: dict[str, str] = {}  # layer -> name of the sums of its inputs
        self._seen: list[Seen] = []
        self._plan()
        self._check_memory(memory)
        self._seen.sort(key=lambda seen: self._program.place[seen[1]])

    def _plan(self) -> None:
        """Say of which nodes what is summed up; layers that read the same share their sums."""
        shared: dict[object, str] = {}
        for layer in self._layers:
            if layer.kind != "scale":
                kernel = tuple(self._shape(layer)[2:])
                settings = [str(value) for value in (layer.settings or {}).values()]
                key = (layer.source, layer.kind, kernel, *settings)
                name = shared.setdefault(key, f"{layer.name}:input")
                self._inputs[layer.name] = name
                if name not in self._sums:
                    self._sums[name] = Moments(products=self._gram)
                    self._seen.append((layer.name, layer.source, self._adder_of_inputs(layer)))
            if not self._moments:
                continue
            self._sum_outputs(layer, "output", layer.node)
            if layer.end is not layer.node:
                self._sum_outputs(layer, "normalized", layer.end)

    def _sum_outputs(self, layer: Layer, kind: str, node: Node) -> None:
        sums = self._sums[f"{layer.name}:{kind}"] = Moments(products=False)

        def add(value: Tensor) -> None:
            rows = rows_of_outputs(layer, value)
            sums.add(rows.transpose(0, 1).flatten(1)[None])  # channels of all groups

        self._seen.append((layer.name, node, add))

    def _adder_of_inputs(self, layer: Layer) -> Callable[[Tensor], None]:
        sums, shape = self._sums[f"{layer.name}:input"], self._shape(layer)

        def add(value: Tensor) -> None:
            for _, rows in rows_of_inputs(layer, value, shape):
                sums.add(rows)

        return add

    def _shape(self, layer: Layer) -> torch.Size:
        return self._tensors[str(layer.weight)].shape

    def _check_memory(self, memory: int) -> None:
        if not self._gram:
            return
        sizes = {}
        for layer in self._layers:
            if self._inputs.get(layer.name) == f"{layer.name}:input":
                shape = self._shape(layer)
                features = shape[0] if layer.transposed else prod(shape[1:])
                sizes[layer.name] = (8 * layer.groups * features**2, features)
        total = sum(size for size, _ in sizes.values())
        if total > memory:
            name = max(sizes, key=lambda name: sizes[name])
            size, features = sizes[name]
            raise InputError(
                f"the Gram matrices of {len(sizes)} layers take {total / 2**30:.1f} GiB, and "
                f"{memory / 2**30:.1f} GiB are allowed. The largest is that of {name!r}: "
                f"{features:,} features, {size / 2**30:.1f} GiB. Allow more (memory=bytes), or "
                "choose layers without it (layers=patterns) and merge it by its mean"
            )

    def add(self, inputs: Inputs) -> None:
        """Add a batch.

        Raises:
            InputError: it has other inputs or shapes than the model was traced with.
            NonFiniteError: what a layer reads or gives is NaN or infinite.
        """
        execution = Execution(self._program, self._tensors, inputs)
        for name, node, add in self._seen:
            value = execution.value(node)
            if not bool(value.isfinite().all()):
                raise NonFiniteError(
                    f"what the layer {name!r} reads or gives has NaN or infinite values (at "
                    f"{node.name!r} of the traced model), so no statistics of it can be taken; "
                    "check the batch and the model's weights"
                )
            add(value)

    def stored(self) -> dict[str, Tensor]:
        """Give the sums by name."""
        return {
            f"{name}/{part}": tensor
            for name, moments in self._sums.items()
            for part, tensor in moments.state().items()
        }

    def restore(self, stored: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from what `stored` gave."""
        for name, moments in self._sums.items():
            parts = {part: f"{name}/{part}" for part in ("count", "mean", "spread")}
            moments.restore({part: stored[full] for part, full in parts.items()}, device)

    def result(self) -> dict[str, Tensor]:
        """Give the statistics by name; the sums are used up."""
        found: dict[str, Tensor] = {}
        grams: dict[str, Tensor] = {}
        for layer in self._layers:
            name, inputs = layer.name, self._inputs.get(layer.name)
            seen = self._sums.get(inputs or f"{name}:output")
            if seen is None:
                continue  # a normalization has no Gram matrix
            found[f"{name}:count"] = torch.tensor(seen.count)
            if inputs is not None and self._moments:
                found[f"{name}:input_mean"] = self._sums[inputs].mean
            if inputs is not None and self._gram:
                if inputs not in grams:
                    grams[inputs] = self._sums[inputs].second_moment()
                found[f"{name}:gram"] = grams[inputs]
            for kind in ("output", "normalized"):
                sums = self._sums.get(f"{name}:{kind}")
                if sums is not None:
                    found[f"{name}:{kind}_mean"] = sums.mean[0]
                    found[f"{name}:{kind}_variance"] = sums.variance()[0]
        return found
