"""What a pass over data has summed up so far, in a file: a pass that was killed goes on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conjoin.batches import Inputs
from conjoin.checkpoints import open_checkpoint, save
from conjoin.errors import DataError, StageError

__all__ = ["PartialFile", "Place", "digest_of"]


@dataclass(frozen=True)
class Place:
    """How far a pass has come.

    Args:
        batches: that are done.
        examples: that are done.
        digest: of all of them, in their order.
    """

    batches: int = 0
    examples: int = 0
    digest: str = ""

    def after(self, inputs: Inputs, labels: Tensor | None, examples: int) -> "Place":
        """Give the place after one more batch."""
        parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
        tensors = [parts] if isinstance(parts, Tensor) else list(parts)
        tensors += [] if labels is None else [labels]
        named = {str(number): tensor for number, tensor in enumerate(tensors)}
        return replace(
            self,
            batches=self.batches + 1,
            examples=self.examples + examples,
            digest=digest_of(named, self.digest),
        )


class PartialFile:
    """A safetensors file with sums and a place, written whole or not at all.

    Args:
        path: of the file.
        settings: all that the sums depend on but the data, as JSON values; a file of others is
            refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        text = json.dumps(settings, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()

    def write(self, place: Place, sums: Mapping[str, Tensor]) -> None:
        """Put sums and a place into the file."""
        metadata = {
            "conjoin.settings": self._digest,
            "conjoin.batches": str(place.batches),
            "conjoin.examples": str(place.examples),
            "conjoin.data": place.digest,
        }
        save(sums, self.path, overwrite=True, metadata=metadata)

    def read(self) -> tuple[Place, Mapping[str, Tensor]]:
        """Give place and sums; the beginning and nothing, if there is no file.

        Raises:
            StageError: the file is of other settings.
        """
        if not self.path.exists():
            return Place(), {}
        stored = open_checkpoint(self.path)
        if stored.metadata.get("conjoin.settings") != self._digest:
            raise StageError(
                f"{self.path} is the beginning of a pass with another model or other settings; "
                "delete it, or choose another file"
            )
        place = Place(
            int(stored.metadata["conjoin.batches"]),
            int(stored.metadata["conjoin.examples"]),
            stored.metadata["conjoin.data"],
        )
        return place, stored

    def check(self, here: Place, stored: Place) -> None:
        """Raise a DataError if the batches up to the stored place are others than before."""
        if here.batches == stored.batches and here != stored:
            raise DataError(
                f"the first {here.batches} batches are not those that {self.path} was made of; a "
                "pass goes on only where the loader gives the same batches in the same order "
                "(shuffle=False, or a seed). Delete the file to start again"
            )

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)


def digest_of(tensors: Mapping[str, Tensor], before: str = "") -> str:
    """Give the SHA-256 of names, shapes, dtypes and bytes of tensors.

    >>> digest_of({"a": torch.zeros(2)})[:8], digest_of({"a": torch.zeros(3)})[:8]
    ('...', '...')
    """
    digest = hashlib.sha256(before.encode())
    for name, tensor in tensors.items():
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        plain = tensor.detach().cpu().contiguous()
        if plain.numel():
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
