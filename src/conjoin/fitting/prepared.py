"""What merging with data starts from: models, their data, and the models in one order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from conjoin.alignment import Alignment, align
from conjoin.arguments import check_weights
from conjoin.batches import Data, Inputs, device_of, map_inputs, size_of
from conjoin.data_statistics.execution import Program
from conjoin.data_statistics.layers import Layer, layers_of
from conjoin.data_statistics.watching import without_fast_path
from conjoin.errors import InputError, MismatchError
from conjoin.fitting.folding import Folding, fold, folding_of
from conjoin.repairing.held_out import read, split
from conjoin.repairing.parents import check_function
from conjoin.symmetry import Layout, Symmetries, find_symmetries
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.tracing import trace

__all__ = ["Prepared", "Settings", "first_of", "one_device", "precise", "prepare", "with_labels"]

ALIGNED_ON = 500
"""Examples of each model that activations are compared on."""


@dataclass(frozen=True)
class Settings:
    """How a merge is made.

    Args:
        align: method of `conjoin.align`; None for what was given, or nothing.
        weights: how much each model counts; their sum is 1.
        ridge: of least squares.
        rounds: of least squares.
        non_diagonal: of RegMean.
    """

    align: str | None
    weights: tuple[float, ...]
    ridge: float
    rounds: int
    non_diagonal: float


@dataclass(frozen=True)
class Prepared:
    """What stays the same from one choice of settings to another.

    Args:
        original: the models as they were given; the result is a copy of the first.
        models: float32 where their own precision is lower.
        names: of their tasks.
        data: batches of each model's inputs, on the models' device.
        held: further ones that nothing is fitted on.
        program: of all models.
        layers: of it; of the folded models, if BatchNorm is folded.
        folding: of each BatchNorm, whether it is folded; None if all are kept.
        symmetries: for alignment.
        given: alignments that were given.
        memory: bytes.
        seed: of the search for alignments.
        progress: see `merge_with_data`.
    """

    original: Sequence[nn.Module]
    models: Sequence[nn.Module]
    names: Sequence[str]
    data: Sequence[Sequence[Inputs]]
    held: Sequence[Sequence[Inputs]]
    program: Program
    layers: Sequence[Layer]
    folding: Folding | None
    symmetries: Symmetries | Layout | None
    given: Sequence[Alignment] | None
    memory: int
    seed: int
    progress: Callable[[int, int], None]
    _found: dict[str | None, Sequence[Alignment]] = field(default_factory=dict)

    def aligned(self, method: str | None) -> list[nn.Module]:
        """Give the models in one order of their units, and folded if they are to be."""
        found, models = self._alignments(method), list(self.models)
        if found:
            models = [one.apply(model) for one, model in zip(found, models, strict=True)]
        folding = self.folding
        return models if folding is None else [fold(model, folding) for model in models]

    def objectives(self, method: str | None) -> tuple[float, ...]:
        """Give how near the aligned models' weights are to those of the others."""
        return tuple(one.objective for one in self._alignments(method))

    def _alignments(self, method: str | None) -> Sequence[Alignment]:
        if method is None:
            return self.given or ()
        if method not in self._found:
            data = [pair for part in self.data for pair in with_labels(first_of(part, ALIGNED_ON))]
            self._found[method] = align(
                list(self.models),
                symmetries=self.symmetries,
                data=None if method == "weights" else data,
                method=method,
                seed=self.seed,
            )
        return self._found[method]


def prepare(
    models: Sequence[nn.Module],
    data: Sequence[Data],
    alignment: str | Sequence[Alignment] | None,
    names: Sequence[str] | None,
    symmetries: Symmetries | Layout | None,
    examples: int,
    memory: float,
    seed: int,
    progress: Callable[[int, int], None],
    *,
    folded: bool,
) -> Prepared:
    """Read the data and trace the first model; see `merge_with_data` for all arguments.

    Raises:
        MismatchError: a model does other operations than the first.
    """
    count = len(models)
    if count < 2:
        raise InputError(f"merge_with_data takes two or more models, not {count}")
    if not isinstance(data, Sequence) or len(data) != count:
        raise InputError(f"data= needs a loader for each of the {count} models, in a list")
    labels = [str(number) for number in range(count)] if names is None else list(names)
    if len(labels) != count or len(set(labels)) != count:
        raise InputError(f"names= needs {count} different ones, of the models' tasks")
    given = None if alignment is None or isinstance(alignment, str) else list(alignment)
    if given is not None and len(given) != count:
        raise InputError(f"align= needs an Alignment of each of the {count} models")
    for number, model in enumerate(models):
        check_weights(model, f"model {number}")
    device = one_device(models)
    sets = [
        [map_inputs(batch, lambda t: precise(t.to(device))) for batch in part]
        for part in read(data, count, examples, 250)
    ]
    fitted, held = split(sets)
    own = [_precise_module(model) for model in models]
    example = _two(fitted[0][0])
    program = Program(trace(own[0], example))
    _check_operations(program, own, fitted)
    if symmetries is None and isinstance(alignment, str):
        symmetries = find_symmetries(own[0], example)
    layers = layers_of(program.trace)
    folding = folding_of(layers, own[0]) if folded else None
    return Prepared(
        list(models), own, labels, fitted, held, program,
        layers if folding is None else folding.layers, folding, symmetries,
        given, int(memory), seed, progress,
    )  # fmt: skip


def first_of(batches: Sequence[Inputs], examples: int) -> list[Inputs]:
    """Give the first examples of some batches.

    >>> [len(batch) for batch in first_of([torch.zeros(3), torch.zeros(3)], 4)]
    [3, 1]
    """
    found: list[Inputs] = []
    left = examples
    for batch in batches:
        if left <= 0:
            break
        found.append(map_inputs(batch, lambda t, left=left: t[:left]))
        left -= size_of(batch)
    return found


def with_labels(batches: Sequence[Inputs]) -> list[tuple[Inputs, Tensor]]:
    """Give batches as (inputs, labels): so that several inputs are not taken for such a pair."""
    return [(batch, torch.zeros(size_of(batch))) for batch in batches]


def precise(tensor: Tensor) -> Tensor:
    """Give a tensor as float32, if its own precision is lower."""
    low = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return tensor.float() if low else tensor


def one_device(models: Sequence[nn.Module]) -> torch.device:
    """Give the device that all models are on.

    Raises:
        MismatchError: there are several.
    """
    found = [device_of(model) or torch.device("cpu") for model in models]
    for number, device in enumerate(found):
        if device != found[0]:
            raise MismatchError(
                f"model 0 is on the device {found[0]}, and model {number} on {device}; bring the "
                "networks to one device first: model.to(...)"
            )
    return found[0]


def _precise_module(module: nn.Module) -> nn.Module:
    if all(precise(parameter) is parameter for parameter in module.parameters()):
        return module
    return fresh_copy(module).float()


def _check_operations(
    program: Program, models: Sequence[nn.Module], data: Sequence[Sequence[Inputs]]
) -> None:
    """Check that all models do what the first one does, by whose operations they will be run."""
    tensors = [_kinds_of_tensors(model) for model in models]
    for number, (model, part) in enumerate(zip(models, data, strict=True)):
        # What differs in its tensors is said when they are aligned and merged.
        if number and tensors[number] == tensors[0]:
            with without_fast_path():
                check_function(program, model, part[0], f"model {number}")


def _kinds_of_tensors(model: nn.Module) -> dict[str, tuple[object, ...]]:
    return {n: (t.shape, t.dtype, t.device) for n, t in model.state_dict().items()}


def _two(batch: Inputs) -> Inputs:
    """Give an example batch of two, that a model is traced on."""
    if size_of(batch) >= 2:
        return map_inputs(batch, lambda t: t[:2])
    return map_inputs(batch, lambda t: torch.cat([t, t]))
