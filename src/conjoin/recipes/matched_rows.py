"""A model whose rows are those of another vocabulary: a row for each of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoints import Checkpoint, FileRange, Spec, Wrapped
from conjoin.deferred import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MatchedRows", "Origins"]

_ROWS = 1 << 10
"""Rows that are read at once for a mean of all."""


@dataclass(frozen=True, eq=False)
class Origins:
    """Where the rows of a matrix come from.

    Args:
        model: int64 [rows]; number of the model that has the row; negative for the others.
        row: int64 [rows]; which one it is there.
        means: rows that are the mean of several: those, as (number of the model, row).
        padding: rows without a token that no model has: the mean of all rows with one. What is in
            neither is zero.
    """

    model: NDArray[np.int64]
    row: NDArray[np.int64]
    means: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    padding: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.model)

    def segments(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (model, first row there, count) for what lies together in one; -1: a row of none.

        >>> model, row = np.array([0, 0, 1, -1]), np.array([4, 5, 6, 0])
        >>> list(Origins(model, row).segments(0, 4))
        [(0, 4, 2), (1, 6, 1), (-1, 3, 1)]
        """
        model, row = self.model[first:stop], self.row[first:stop]
        goes_on = (model[1:] == model[:-1]) & (row[1:] == row[:-1] + 1) & (model[1:] >= 0)
        begins = np.flatnonzero(np.concatenate([[True], ~goes_on]))
        for begin, end in zip(begins, [*begins[1:], len(model)], strict=True):
            at = row[begin] if model[begin] >= 0 else first + begin
            yield int(model[begin]), int(at), int(end - begin)


class MatchedRows(Wrapped):
    """A checkpoint with other rows in some tensors; what is read is what those rows take.

    Args:
        models: all that rows may come from, in the order that `origins` counts them in.
        number: which of them this is.
        names: of its tensors that have a row for each token.
        origins: of the rows of these tensors.
    """

    def __init__(
        self, models: Sequence[Checkpoint], number: int, names: Sequence[str], origins: Origins
    ) -> None:
        super().__init__(models[number])
        self._models, self._origins = models, origins
        self._specs: dict[str, Spec] = dict(self.inner.specs)
        self._matched = frozenset(names)
        for name in names:
            spec = self._specs[name]
            self._specs[name] = replace(spec, shape=(len(origins), *spec.shape[1:]))
        self._padding: dict[str, Tensor] = {}

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    def reads_ranges(self, name: str) -> bool:
        self.spec_of(name)
        return all(one.reads_ranges(name) for one in self._models if name in one.specs)

    def in_file(self, name: str) -> FileRange | None:
        self.spec_of(name)
        return None if name in self._matched else self.inner.in_file(name)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._matched:
            self.spec_of(name)
            return self.inner[name]
        return self.read(name).reshape(self._specs[name].shape)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        start, stop = self.checked_range(name, start, stop)
        if name not in self._matched:
            return self.inner.read(name, start, stop)
        if start == stop:
            return torch.empty(0, dtype=self._specs[name].dtype)
        width = self._specs[name].numel // len(self._origins)
        first, last = start // width, -(-stop // width)
        return self._rows(name, first, last, width)[start - first * width : stop - first * width]

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        if name in self._matched:
            return super().blocks(name, start, stop, size)
        self.spec_of(name)
        return self.inner.blocks(name, start, stop, size)

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        if name in self._matched:
            return super().sample(name, start, stop, step)
        self.spec_of(name)
        return self.inner.sample(name, start, stop, step)

    def _rows(self, name: str, first: int, stop: int, width: int) -> Tensor:
        dtype, parts = self._specs[name].dtype, []
        for model, row, count in self._origins.segments(first, stop):
            if model >= 0:
                there = self._models[model]
                part = there.read(name, row * width, (row + count) * width).to(dtype)
            elif row in self._origins.means:
                rows = [
                    self._models[one].read(name, at * width, (at + 1) * width).double()
                    for one, at in self._origins.means[row]
                ]
                part = torch.stack(rows).mean(0).to(dtype)
            elif row in self._origins.padding:
                part = self._mean(name, width).to(dtype)
            else:
                part = torch.zeros(width, dtype=dtype)
            parts.append(part)
        return torch.cat(parts)

    def _mean(self, name: str, width: int) -> Tensor:
        """Give the mean of the rows that are no padding; float64 [width]."""
        known = self._padding.get(name)
        if known is not None:
            return known
        total, count = torch.zeros(width, dtype=torch.float64), 0
        ends = [*sorted(self._origins.padding), len(self._origins)]
        for begin, end in zip([0, *(row + 1 for row in ends)], ends, strict=False):
            for first in range(begin, end, _ROWS):
                rows = self._rows(name, first, min(first + _ROWS, end), width)
                total += rows.view(-1, width).double().sum(0)
            count += end - begin
        return self._padding.setdefault(name, total / max(1, count))
