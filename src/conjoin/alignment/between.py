"""The network between a reference and a reordered model, and how far it is from what both give.

Its weights are ``(1 - t) a + t P b``. Its BatchNorm layers take the statistics of the batch: those
of the models are of other activations than its own, and would drown what an order is worth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from conjoin.alignment.blocks import Block, blocks_of
from conjoin.alignment.soft import Matrices, mixed
from conjoin.batches import (
    Inputs,
    concatenate,
    device_of,
    inputs_of,
    inputs_on,
    read_logits,
    run_model,
    size_of,
)
from conjoin.errors import DataError, InputError, MismatchError
from conjoin.evaluation import evaluating
from conjoin.symmetry import Layout, Permutations
from conjoin.symmetry.copies import fresh_copy

__all__ = ["LOSSES", "Between", "Example", "Loss", "Term", "examples_of"]

Loss = str | Callable[[Any, Any], Tensor]
"""``mse``, ``kl``, or a function of (outputs, batch) that gives a scalar."""


def _divergence(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.dim() != 2:
        raise InputError(
            f"'kl' compares logits [B, classes]; the models give {list(outputs.shape)}. Take "
            "loss='mse', or a function of (outputs, batch)"
        )
    one, two = (values.float().log_softmax(1) for values in (outputs, targets))
    return F.kl_div(one, two, log_target=True, reduction="batchmean")


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.float(), targets.float())


LOSSES = {"mse": _squares, "kl": _divergence}
"""How far outputs are from a model's own: mean squared error; KL(model || between), in nats."""


@dataclass(frozen=True, eq=False)
class Term:
    """A batch, and which models it is data of.

    Args:
        size: number of its examples.
        batch: as it was given.
        models: 0 for the reference, 1 for the other, or both.
        targets: by model, what it gives for the batch; empty if the loss is the caller's own.
    """

    size: int
    batch: Any
    models: tuple[int, ...]
    targets: Mapping[int, Any]


@dataclass(frozen=True, eq=False)
class Example:
    """What one step is computed on.

    Args:
        inputs: of one call of the network.
        terms: what it is made of, in order.
    """

    inputs: Inputs
    terms: tuple[Term, ...]


def examples_of(
    models: Sequence[nn.Module], data: Sequence[Any], own: Sequence[Any] | None, loss: Loss
) -> list[Example]:
    """Pair batches with what the models give for them.

    Args:
        models: the reference and the other; run in eval mode, not changed.
        data: batches of both, or of the reference alone.
        own: batches of the other. Each is put together with one of the reference's, so that the
            statistics of a batch are of both; what is left over of the longer list is left out.
        loss: for one of the caller's own, the models are not run.
    """
    device = device_of(models[0])

    def here(batch: Any) -> Inputs:
        return inputs_on(inputs_of(batch), device)

    def term(batch: Any, which: tuple[int, ...]) -> Term:
        inputs = inputs_of(batch)
        run = which if isinstance(loss, str) else ()
        outputs = {n: read_logits(run_model(models[n], inputs)) for n in run}
        return Term(size_of(inputs), batch, which, outputs)

    with torch.no_grad(), evaluating(models):
        if own is None:
            return [Example(inputs_of(batch), (term(batch, (0, 1)),)) for batch in data]
        return [
            Example(concatenate([here(one), here(two)]), (term(one, (0,)), term(two, (1,))))
            for one, two in zip(data, own, strict=False)
        ]


class Between:
    """The networks between a reference and a model in any order of its units.

    Args:
        reference, model: of one structure; copied.
        layout: of both.
        loss: what is measured.

    Raises:
        MismatchError: a tensor is missing in the model, or has another shape than in the reference
            or in the layout.
    """

    def __init__(self, reference: nn.Module, model: nn.Module, layout: Layout, loss: Loss) -> None:
        self.layout, self.loss = layout, loss
        self._network = _without_statistics(reference)
        identity = Permutations(layout, {})
        identity.check_names(_tensors(reference, tied=True))
        own, others = (_tensors(net, tied=False) for net in (reference, model))
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name in _tensors(self._network, tied=False):
            one, two = own[name], others.get(name)
            if two is None or two.shape != one.shape:
                found = "is missing" if two is None else f"has the shape {list(two.shape)}"
                raise MismatchError(
                    f"{name!r} {found} in the model; in its reference it has the shape "
                    f"{list(one.shape)}"
                )
            identity.check_shape(name, one.shape)
            two = two.to(one)
            # What is equal stays: between infinities, in masks for instance, there is no number.
            if one.is_floating_point() and (identity.moves(name) or not torch.equal(one, two)):
                self._pairs[name] = one, two
        self._moved = {name for name in self._pairs if identity.moves(name)}

    @property
    def device(self) -> torch.device:
        """Where it runs: on the device of the reference."""
        return device_of(self._network) or torch.device("cpu")

    def blocks(self) -> list[Block]:
        """Give the weights that may be reordered, taken apart."""
        one, two = ({name: pair[n] for name, pair in self._pairs.items()} for n in (0, 1))
        names = [name for name, _ in self._network.named_parameters() if name in self._moved]
        return blocks_of(self.layout, one, two, names)

    def loss_of(self, example: Example, matrices: Matrices, point: float = 0.5) -> Tensor:
        """Give the loss of the network at a point of the segment.

        Args:
            example: what it is run on.
            matrices: that the model's units are reordered by.
            point: t, from 0 at the reference to 1 at the model. What the models gave counts
                ``1 - t`` and ``t``.

        Raises:
            InputError: the outputs are not what the loss is for.
            DataError: BatchNorm has a batch of one example.
        """
        weights = {}
        for name, (one, two) in self._pairs.items():
            if name in self._moved:
                two = mixed(name, two, self.layout, matrices)
            weights[name] = torch.lerp(one, two, point)
        # Some models keep what they once computed from their weights, until they are put into
        # train mode.
        self._network.train().eval()
        inputs = inputs_on(example.inputs, self.device)
        args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (inputs, None)
        try:
            outputs = functional_call(self._network, weights, args, kwargs)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise DataError(
                    "BatchNorm takes the statistics of each batch here; give batches of two "
                    "examples or more"
                ) from error
            raise
        return self._compared(outputs, example, (1 - point, point))

    def _compared(self, outputs: Any, example: Example, shares: Sequence[float]) -> Tensor:
        sizes = [term.size for term in example.terms]
        if not isinstance(self.loss, str) and len(sizes) == 1:
            return _scalar(self.loss(outputs, example.terms[0].batch))
        if isinstance(self.loss, str):
            outputs = read_logits(outputs)
        if not isinstance(outputs, Tensor) or outputs.dim() == 0 or len(outputs) != sum(sizes):
            found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InputError(
                f"expected outputs [{sum(sizes)}, ...] of the models, found {found}; for a model "
                "that gives anything else, give data for both and a function as loss"
            )
        total = outputs.new_zeros((), dtype=torch.float32)
        for part, term in zip(outputs.split(sizes), example.terms, strict=True):
            for number in term.models:
                if isinstance(self.loss, str):
                    value = LOSSES[self.loss](part, term.targets[number].to(part.device))
                else:
                    value = _scalar(self.loss(part, term.batch))
                total = total + shares[number] * value
        return total


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim():
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"a loss gives a scalar tensor, [], for (outputs, batch); found {found}")
    return value


def _without_statistics(model: nn.Module) -> nn.Module:
    """Give a copy in eval mode whose BatchNorm layers know no statistics but those of a batch."""
    result = fresh_copy(model).eval().requires_grad_(False)
    for part in result.modules():
        if isinstance(part, _BatchNorm):
            part.running_mean = part.running_var = part.num_batches_tracked = None
    return result


def _tensors(model: nn.Module, *, tied: bool) -> dict[str, Tensor]:
    """Give parameters and buffers; a tied one under each of its names, or under the first."""
    parameters = model.named_parameters(remove_duplicate=not tied)
    buffers = model.named_buffers(remove_duplicate=not tied)
    return {name: tensor.detach() for name, tensor in (*parameters, *buffers)}
