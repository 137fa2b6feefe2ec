"""The hash of a data set that nothing is kept of."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conjoin.batches import Inputs, size_of
from conjoin.errors import DataError

__all__ = ["Digest", "described"]


class Digest:
    """Hashes batch after batch; how the examples are divided into batches does not matter.

    >>> x, y = torch.arange(6.0), torch.arange(6)
    >>> whole, halves = Digest(), Digest()
    >>> whole.add(x, y, "here")
    >>> halves.add(x[:3], y[:3], "here")
    >>> halves.add(x[3:], y[3:], "here")
    >>> whole.hexdigest() == halves.hexdigest(), whole.count
    (True, 6)
    """

    def __init__(self) -> None:
        self.count = 0
        self._hashes: dict[str, Any] = {}
        self._shapes: dict[str, str] = {}

    def add(self, inputs: Inputs, targets: Tensor, where: str) -> None:
        """Add a batch.

        Raises:
            DataError: its structure, or the dtype of its targets, is not that of those before.
        """
        tensors = _named(inputs) | {"targets": targets}
        if self._hashes and (found := list(tensors)) != list(self._hashes):
            raise DataError(f"{where}: batches differ: {list(self._hashes)}, then {found}")
        for name, tensor in tensors.items():
            digest = self._hashes.setdefault(name, hashlib.sha256(name.encode()))
            shape = f"{tensor.dtype} {list(tensor.shape[1:])}"
            if shape != self._shapes.get(name):
                before = self._shapes.get(name, shape)
                if name == "targets" and before.split()[0] != shape.split()[0]:
                    raise DataError(f"{where}: targets differ: {before}, then {shape}")
                digest.update(f"{self.count} {shape}".encode())
                self._shapes[name] = shape
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            if plain.numel():
                digest.update(plain.view(-1).view(torch.uint8).numpy().data)
        self.count += size_of(inputs)

    def hexdigest(self) -> str:
        """Give the hash of all batches so far."""
        parts = [f"{name} {digest.hexdigest()}" for name, digest in self._hashes.items()]
        return hashlib.sha256("\n".join([str(self.count), *parts]).encode()).hexdigest()


def described(inputs: Inputs) -> str:
    """Say what inputs are.

    >>> described((torch.zeros(2, 3), torch.zeros(2)))
    'float32 [2, 3], float32 [2]'
    """
    tensors = _named(inputs).values()
    return ", ".join(f"{t.dtype} {list(t.shape)}".removeprefix("torch.") for t in tensors)


def _named(inputs: Inputs) -> dict[str, Tensor]:
    if isinstance(inputs, Tensor):
        return {"inputs": inputs}
    if isinstance(inputs, Mapping):
        return {f"inputs {name!r}": tensor for name, tensor in inputs.items()}
    return {f"inputs {number}": tensor for number, tensor in enumerate(inputs)}
