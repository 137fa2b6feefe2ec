"""Checkpoints under other names: as a slice of a result sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from conjoin.checkpoints import Checkpoint, Kind, Spec
from conjoin.merging import Source

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RenamedCheckpoint"]


class RenamedCheckpoint(Checkpoint):
    """Some tensors of another checkpoint, under the names that they have in a result.

    Args:
        inner: the other.
        names: name here -> name there.
        kinds: name here -> what the tensor is to be taken for.
    """

    def __init__(
        self,
        inner: Checkpoint,
        names: Mapping[str, str],
        kinds: Mapping[str, Kind] | None = None,
    ) -> None:
        self.inner, self.names = inner, dict(names)
        back = {there: here for here, there in names.items()}
        self._specs: dict[str, Spec] = {}
        for here, there in names.items():
            spec = inner.specs[there]
            # A tie whose first name is left out ties nothing.
            tied = None if spec.alias_of is None else back.get(spec.alias_of)
            kind = (kinds or {}).get(tied or here, spec.kind)
            self._specs[here] = replace(spec, alias_of=tied, kind=kind)

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self._specs

    @property
    def source(self) -> str:
        return self.inner.source

    def __getitem__(self, name: str) -> Tensor:
        self.spec_of(name)
        return self.inner[self.names[name]]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        self.spec_of(name)
        return self.inner.read(self.names[name], start, stop)

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        self.spec_of(name)
        return self.inner.blocks(self.names[name], start, stop, size)

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        self.spec_of(name)
        return self.inner.sample(self.names[name], start, stop, step)

    def reads_ranges(self, name: str) -> bool:
        return self.inner.reads_ranges(self.names[name])

    def origin(self, source: Source) -> Source:
        """Give the tensor itself for a tensor of this view."""
        return Source(source.model, self.inner, self.names[source.name])
