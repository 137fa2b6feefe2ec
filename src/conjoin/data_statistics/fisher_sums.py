"""The diagonal of the Fisher information, summed up example by example."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from conjoin.batches import Inputs, map_inputs, read_logits, size_of
from conjoin.errors import DataError, InputError, NonFiniteError
from conjoin.symmetry.copies import fresh_copy

__all__ = ["FisherSums"]

ELEMENTS = 1 << 26
"""Numbers in the gradients of the examples that are computed at a time: 256 MiB in float32."""


class FisherSums:
    """Squares of the gradients of ``log p(y | x)`` with respect to each parameter, summed up.

        F = mean_n E_y~p(y | x_n) [ (d log p(y | x_n) / d w)^2 ]

    of which the expectation is estimated by one label of each example, drawn from the model's own
    probabilities by a generator that is seeded by (seed, number of the example). With outputs
    [B, places, classes] one label is drawn for each place, and log-likelihoods are summed over
    places.

    Gradients of several examples are computed at once by `torch.func.vmap`, as many as fit in
    `ELEMENTS`; one after the other, if only one fits, or if the model has an operation that vmap
    does not know.

    Args:
        model: the one whose parameters the gradients are of; a copy in eval mode is run, so that
            nothing of `torch.func` is left in it.
        seed: of the labels.
        notice: called with one line if vmap cannot be used.

    Source: Matena & Raffel, Merging models with Fisher-weighted averaging, NeurIPS 2022.
    """

    def __init__(self, model: nn.Module, seed: int, notice: Callable[[str], None]) -> None:
        self._model, self._seed, self._notice = fresh_copy(model).eval(), seed, notice
        self._parameters = {
            name: p.detach() for name, p in self._model.named_parameters() if p.is_floating_point()
        }
        if not self._parameters:
            raise InputError(f"{type(model).__name__} has no parameters to take a gradient of")
        self._buffers = {name: b.detach() for name, b in self._model.named_buffers()}
        self._owners = _owners_of(self._model)
        numbers = sum(p.numel() for p in self._parameters.values())
        self._at_once = max(1, ELEMENTS // max(1, numbers))
        self.one_by_one = self._at_once == 1
        self.count, self.sums = 0, dict[str, Tensor]()

    def add(self, inputs: Inputs, labels: Tensor | None) -> None:
        """Add a batch.

        Args:
            inputs: on the model's device.
            labels: int64 [B] or [B, places]; None to draw them.

        Raises:
            DataError: the model's outputs are not [B, classes] or [B, places, classes], or labels
                do not fit them.
            NonFiniteError: an output or a gradient is NaN or infinite.
        """
        with torch.no_grad():
            outputs = self._outputs(self._parameters, inputs)
        if not bool(outputs.isfinite().all()):
            raise NonFiniteError(
                f"the outputs of {type(self._model).__name__} have NaN or infinite values, so "
                "there are no labels to draw and no gradients to take"
            )
        labels = self._drawn(outputs) if labels is None else _checked(labels, outputs)
        for start in range(0, size_of(inputs), self._at_once):
            part = slice(start, start + self._at_once)
            self._add_part(map_inputs(inputs, lambda t, part=part: t[part]), labels[part])

    def result(self) -> dict[str, Tensor]:
        """Give ``F`` of each parameter: float64, of its shape."""
        return {name: total / self.count for name, total in self.sums.items()}

    def restore(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Go on from sums over that many examples."""
        self.count = count
        self.sums = {name: sums[name].clone() for name in self._parameters} if count else {}

    def _drawn(self, outputs: Tensor) -> Tensor:
        probabilities = outputs.cpu().double().softmax(-1).cumsum(-1)
        labels = []
        for number, row in enumerate(probabilities, start=self.count):
            generator = torch.Generator().manual_seed(_mixed(self._seed, number))
            at = torch.rand(row.shape[:-1], generator=generator, dtype=torch.float64)
            labels.append((row < at[..., None] * row[..., -1:]).sum(-1))
        return torch.stack(labels).to(outputs.device)

    def _add_part(self, inputs: Inputs, labels: Tensor) -> None:
        found = None if self.one_by_one else self._together(inputs, labels)
        if found is None:
            for number in range(len(labels)):
                one = slice(number, number + 1)
                self._add_squares(
                    self._alone(map_inputs(inputs, lambda t, one=one: t[one]), labels[one]), 1
                )
        else:
            self._add_squares(found, len(labels))

    def _together(self, inputs: Inputs, labels: Tensor) -> dict[str, Tensor] | None:
        """Give the squared gradients, summed over examples; None if vmap cannot do it."""
        try:
            gradients = vmap(grad(self._loss), (None, 0, 0))(self._parameters, inputs, labels)
        except Exception as error:
            # Whatever it is that vmap cannot do; what is wrong without it is raised without it.
            self.one_by_one = True
            first = str(error).strip().partition("\n")[0][:200]
            self._notice(f"Fisher: gradients one example at a time, since vmap fails: {first}")
            return None
        return {name: found.square().sum(0) for name, found in gradients.items()}

    def _alone(self, inputs: Inputs, labels: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            parameters = {n: p.detach().requires_grad_() for n, p in self._parameters.items()}
            outputs = self._outputs(parameters, inputs)
            found = torch.autograd.grad(
                _loss_of(outputs[0], labels[0]), list(parameters.values()), allow_unused=True
            )
        return {
            name: torch.zeros_like(p) if gradient is None else gradient.square()
            for (name, p), gradient in zip(parameters.items(), found, strict=True)
        }

    def _loss(self, parameters: Mapping[str, Tensor], inputs: Any, labels: Tensor) -> Tensor:
        one = map_inputs(inputs, lambda tensor: tensor[None])
        return _loss_of(self._outputs(parameters, one)[0], labels)

    def _outputs(self, parameters: Mapping[str, Tensor], inputs: Any) -> Tensor:
        own = {**parameters, **self._buffers}
        state = {name: own[owner] for name, owner in self._owners.items() if owner in own}
        return _outputs_of(self._model, state, inputs)

    def _add_squares(self, squares: Mapping[str, Tensor], examples: int) -> None:
        for name, square in squares.items():
            if not bool(square.isfinite().all()):
                raise NonFiniteError(
                    f"the gradient with respect to {name!r} is NaN or infinite, or its square "
                    "is; the Fisher information cannot be estimated"
                )
            here = square.cpu().double()
            self.sums[name] = self.sums[name].add_(here) if name in self.sums else here
        self.count += examples


def _mixed(seed: int, number: int) -> int:
    """Give a seed of 32 bits, as many as the generator looks at, for one example."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


def _owners_of(model: nn.Module) -> dict[str, str]:
    """Give, for each tensor of each module, the first name of that tensor.

    A module that has several names is there once: `functional_call` puts back what it finds in a
    module, and would put a tensor of its own in the place of the parameter at the second name.
    """
    first: dict[int, str] = {}
    owners = {}
    for prefix, part in model.named_modules():
        for name, tensor in (
            *part.named_parameters(prefix, recurse=False, remove_duplicate=False),
            *part.named_buffers(prefix, recurse=False, remove_duplicate=False),
        ):
            owners[name] = first.setdefault(id(tensor), name)
    return owners


def _outputs_of(model: nn.Module, state: Mapping[str, Tensor], inputs: Any) -> Tensor:
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    args = (inputs,) if isinstance(inputs, Tensor) else () if named else tuple(inputs)
    outputs = functional_call(model, dict(state), args, named, tie_weights=False)
    outputs = read_logits(outputs)
    if not isinstance(outputs, Tensor) or outputs.dim() not in (2, 3):
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(
            f"the Fisher information needs outputs [B, classes] or [B, places, classes] of "
            f"{type(model).__name__}; found {found}. Wrap the model in a module that gives these"
        )
    return outputs


def _loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Give ``-log p(y | x)`` of one example: outputs [classes] or [places, classes]."""
    return -outputs.log_softmax(-1).gather(-1, labels[..., None]).sum()


def _checked(labels: Tensor, outputs: Tensor) -> Tensor:
    if labels.shape != outputs.shape[:-1] or labels.dtype != torch.int64:
        raise DataError(
            f"expected int64 labels {list(outputs.shape[:-1])} for outputs {list(outputs.shape)}; "
            f"found {labels.dtype} {list(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[-1]:
        raise DataError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}, but the model has "
            f"{outputs.shape[-1]} outputs, for labels 0 to {outputs.shape[-1] - 1}"
        )
    return labels.to(outputs.device)
