"""`collect_statistics`: one pass of a model over data -> named tensors: what its layers see."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from conjoin.arguments import check_weights
from conjoin.atomic import check_target
from conjoin.batches import (
    Data,
    Inputs,
    batches,
    concatenate,
    device_of,
    inputs_of,
    map_inputs,
    pair_of,
    size_of,
)
from conjoin.checkpoints import save
from conjoin.data_statistics.execution import Program
from conjoin.data_statistics.fisher_sums import FisherSums
from conjoin.data_statistics.layer_sums import LayerSums
from conjoin.data_statistics.partial_file import PartialFile, Place, digest_of
from conjoin.errors import DataError, InputError
from conjoin.evaluation import evaluating
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.tracing import trace

__all__ = ["WHAT", "collect_statistics"]

WHAT = ("moments", "gram", "fisher")
"""What can be collected."""

HALF = (torch.float16, torch.bfloat16)


def collect_statistics(
    model: nn.Module,
    data: Data,
    *,
    what: Sequence[str] = ("moments", "gram"),
    layers: str | Sequence[str] = "*",
    example_inputs: Inputs | None = None,
    program: Program | None = None,
    labels: Literal["drawn", "given"] = "drawn",
    seed: int = 0,
    batch_size: int = 250,
    memory: int = 4 << 30,
    file: Path | str | None = None,
    every: int = 50,
    overwrite: bool = False,
    on_batch: Callable[[int], None] | None = None,
    notice: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> dict[str, Tensor]:
    """Run a model over data once, and give statistics of its layers and parameters by name.

    ``moments``, of each layer (of `layers_of`) over its N rows, which are the examples, or all
    places of all examples:

    - ``LAYER:count`` N, int64 [];
    - ``LAYER:input_mean`` [groups, features]; the features of a convolution are those of one group
      under its kernel, zeros of the padding among them; not of a normalization;
    - ``LAYER:output_mean``, ``LAYER:output_variance`` [outputs] of what the layer gives, before a
      BatchNorm that belongs to it; of a normalization, of what it gives in the end;
    - ``LAYER:normalized_mean``, ``LAYER:normalized_variance`` [outputs] after that BatchNorm.

    ``gram``, of each linear layer and convolution:

    - ``LAYER:count``, and ``LAYER:gram`` [groups, features, features], ``X^T X / N``: the mean over
      rows, so that it does not grow with the data.

    ``fisher``, of each floating parameter:

    - ``PARAMETER:fisher`` of its shape: the diagonal of the Fisher information, the mean over
      examples of squared gradients of ``log p(y | x)``; see `FisherSums`.

    All are float64 sums of float32 products (of float64 ones, if the model is float64), so that it
    does not matter how data are cut into batches. Variances are of the whole (divided by N). The
    model runs in eval mode, on the device of its first parameter; one in half precision is
    computed in float32. Layers that read the same inputs in the same way have one tensor.

    Args:
        model: not changed. For ``moments`` and ``gram`` it must be one that `torch.export` can
            trace, and all batches have one shape but for their size.
        data: a loader of inputs or of ``(inputs, labels)``, or that pair for a whole set.
        what: is collected, of ``moments``, ``gram``, ``fisher``.
        layers: names or patterns of the layers that are looked at.
        example_inputs: what the model is traced with; else it is the start of the first batch. A
            forward that makes a number of the batch size (``len(x)``) is traced for each size.
        program: of a model of the same structure, so that this one need not be traced again.
        labels: for ``fisher``: ``drawn`` from the model's own predictions, which is the Fisher
            information; or ``given`` with the data, the empirical Fisher.
        seed: of the labels that are drawn.
        batch_size: used for a whole set.
        memory: bytes that Gram matrices may take. They are kept in memory, not in a file: each
            batch changes every element, and what is done with them needs them whole.
        file: a ``.safetensors`` file to be, with the same tensors. Beside it, FILE.partial keeps
            what is summed up every few batches, and the next call with the same model and settings
            goes on from there; the loader must give the same batches again, which is checked.
        every: so many batches; what a kill loses at most.
        overwrite: whether the file may be replaced.
        on_batch: called with the number of examples just done, or found done before.
        notice: called with one line if the Fisher information has to be computed slowly.

    Returns:
        name -> float64 tensor on the model's device, the Fisher information on the CPU.

    Raises:
        InputError: unknown statistics, a pattern that matches no layer, or Gram matrices beyond
            `memory`, where the message names the largest layer; or a model whose weights are not
            there yet, or that cannot be copied.
        TraceError: the model cannot be traced, or does other operations with batches of other sizes
            (`for one in x`).
        DataError: no examples, batches of different shapes, or other batches than before.
        NonFiniteError: an activation, or a gradient, is NaN or infinite; the layer is named.
        StageError: what lies beside the file is of another model or other settings.
        OutputExistsError: the file exists.

    Source of what the matrices are for: Jin et al., Dataless knowledge fusion by merging weights
    of language models, ICLR 2023; Matena & Raffel, Merging models with Fisher-weighted averaging,
    NeurIPS 2022.

    >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    >>> found = collect_statistics(net, [torch.tensor([[1.0, 0.0], [3.0, 4.0]])])
    >>> found["0:input_mean"], found["0:gram"]
    (tensor([[2., 2.]], dtype=torch.float64), tensor([[[5., 6.], [6., 8.]]], dtype=torch.float64))
    """
    _check(what, labels, every)
    target = None if file is None else Path(file)
    if target is not None:
        if target.suffix != ".safetensors":
            raise InputError(f"statistics are written to a .safetensors file, not to {target}")
        check_target(target, overwrite=overwrite)
    check_weights(model)
    net = _in_float32(model)
    incoming = _prepared(batches(data, batch_size), net, labels if "fisher" in what else "drawn")
    first = next(incoming, None)
    if first is None:
        raise DataError("the data gave no examples; a loader can be used up: pass a list")
    with ExitStack() as stack:
        stack.enter_context(evaluating([net]))
        if program is None and {"moments", "gram"} & set(what):
            example = _start(first[0]) if example_inputs is None else _moved(example_inputs, net)
            program = Program(trace(net, _as_example(example)))
        sums = _Sums(net, program, what, layers, memory)
        sums.start_fisher(seed, notice)
        partial = None
        if target is not None:
            settings = {
                "what": sorted(what), "layers": list(sums.names), "labels": labels, "seed": seed,
                "model": digest_of(sums.state),
            }  # fmt: skip
            partial = PartialFile(target.with_name(f"{target.stem}.partial.safetensors"), settings)
        _run(sums, chain([first], incoming), partial, every, on_batch)
        result = sums.result()
    if target is not None and partial is not None:
        metadata = {"conjoin.format": "conjoin.statistics", "conjoin.fisher": sums.how_fisher}
        save(result, target, overwrite=overwrite, metadata=metadata)
        partial.remove()
    return result


Batch = tuple[Inputs, Tensor | None]


class _Sums:
    """All that is summed up in one pass."""

    def __init__(
        self,
        net: nn.Module,
        program: Program | None,
        what: Sequence[str],
        layers: str | Sequence[str],
        memory: int,
    ) -> None:
        self._net, self._what = net, what
        self.state = {
            name: tensor.detach()
            for name, tensor in chain(
                net.named_parameters(remove_duplicate=False),
                net.named_buffers(remove_duplicate=False),
            )
        }
        self._layers: LayerSums | None = None
        self._fisher: FisherSums | None = None
        self.names: Sequence[str] = ()
        if program is not None and {"moments", "gram"} & set(what):
            self._layers = LayerSums(program, self.state, layers, what, memory)
            self.names = self._layers.names

    def start_fisher(self, seed: int, notice: Callable[[str], None]) -> None:
        """Make room for the Fisher information, if it is asked for."""
        if "fisher" in self._what:
            self._fisher = FisherSums(self._net, seed, notice)

    @property
    def how_fisher(self) -> str:
        """Say how per-example gradients were computed, for the file's metadata."""
        if self._fisher is None:
            return "none"
        return "one example at a time" if self._fisher.one_by_one else "vmap"

    def add(self, inputs: Inputs, labels: Tensor | None) -> None:
        if self._layers is not None:
            with torch.no_grad():
                self._layers.add(inputs)
        if self._fisher is not None:
            self._fisher.add(inputs, labels)

    def stored(self) -> dict[str, Tensor]:
        """Give the sums by name, for `PartialFile`."""
        found = {} if self._layers is None else self._layers.stored()
        if self._fisher is not None:
            found |= {f"fisher/{name}": total for name, total in self._fisher.sums.items()}
        return found

    def restore(self, stored: Any, place: Place) -> None:
        """Go on from what `stored` gave."""
        if self._layers is not None:
            device = device_of(self._net) or torch.device("cpu")
            self._layers.restore(stored, device)
        if self._fisher is not None:
            totals = {n.removeprefix("fisher/"): stored[n] for n in stored if n[:7] == "fisher/"}
            self._fisher.restore(totals, place.examples)

    def result(self) -> dict[str, Tensor]:
        found = {} if self._layers is None else self._layers.result()
        if self._fisher is not None:
            found |= {f"{name}:fisher": t for name, t in self._fisher.result().items()}
        return found


def _run(
    sums: _Sums,
    incoming: Iterable[Batch],
    partial: PartialFile | None,
    every: int,
    on_batch: Callable[[int], None] | None,
) -> None:
    """Sum up all batches; what was summed up before is not computed again."""
    here = before = Place()
    if partial is not None:
        before, stored = partial.read()
        if before.batches:
            sums.restore(stored, before)
    for inputs, labels in incoming:
        size = size_of(inputs)
        if partial is not None:
            here = here.after(inputs, labels, size)
        if here.batches > before.batches or partial is None:
            sums.add(inputs, labels)
            if partial is not None and here.batches % every == 0:
                partial.write(here, sums.stored())
        elif partial is not None:
            partial.check(here, before)
        if on_batch is not None:
            on_batch(size)
    if partial is not None and here.batches < before.batches:
        raise DataError(
            f"the data gave {here.batches} batches, and {partial.path} was made of "
            f"{before.batches}; delete it to start again"
        )


def _prepared(data: Iterable[Any], net: nn.Module, labels: str) -> Iterator[Batch]:
    """Give batches that are not empty, on the model's device, with labels where they are used."""
    for batch in data:
        given = None
        if labels == "given":
            inputs, given = pair_of(batch, "the statistics")
        else:
            inputs = inputs_of(batch)
        if size_of(inputs):
            yield _moved(inputs, net), given


def _moved(inputs: Inputs, net: nn.Module) -> Inputs:
    device = device_of(net)

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor if device is None else tensor.to(device)
        return tensor.float() if tensor.dtype in HALF else tensor

    return map_inputs(inputs, change)


def _start(inputs: Inputs) -> Inputs:
    return map_inputs(inputs, lambda tensor: tensor[:2])


def _as_example(inputs: Inputs) -> Inputs:
    """Give two examples at least, since a trace needs as many: one twice, if there is but one."""
    return concatenate([inputs, inputs]) if size_of(inputs) < 2 else inputs


def _in_float32(model: nn.Module) -> nn.Module:
    """Give the model, or a copy in float32 of one in half precision."""
    if not any(p.dtype in HALF for p in chain(model.parameters(), model.buffers())):
        return model
    return fresh_copy(model).float()


def _check(what: Sequence[str], labels: str, every: int) -> None:
    unknown = [one for one in what if one not in WHAT]
    if isinstance(what, str) or unknown or not what:
        raise InputError(f"what is to be collected must be some of {WHAT}; found {what!r}")
    if labels not in ("drawn", "given"):
        raise InputError(f"labels are 'drawn' or 'given', not {labels!r}")
    if every < 1:
        raise InputError(f"`every` is a number of batches from 1 on, not {every}")
