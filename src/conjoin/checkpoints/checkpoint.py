"""The one idea of the library: a lazy, read-only mapping from names to tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conjoin.checkpoints.descriptors import FileRange
from conjoin.checkpoints.names import closest_name
from conjoin.checkpoints.spec import Spec
from conjoin.deferred import torch
from conjoin.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "cut_at_multiples"]

_CHUNK = 1 << 18
"""Elements that are read at once for a sample."""
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Checkpoint(Mapping[str, "Tensor"], ABC):
    """Named tensors that are read, or computed, when they are asked for.

    A subclass gives `specs` (known without reading data) and `__getitem__`; it may give `read`
    where a part of a tensor costs less than the whole. A tensor that is handed out is not to be
    changed in place: it may be a view of a module or of another checkpoint.

    Unlike dicts, two checkpoints are equal only if they are the same object: comparing all
    values would read both, and comparing tensors has no truth value.

    >>> import torch
    >>> from conjoin.checkpoints import Kind
    >>> class Ones(Checkpoint):
    ...     specs = {"a": Spec((2, 3), torch.float32, Kind.WEIGHT, source="ones")}
    ...     def __getitem__(self, name):
    ...         return torch.ones(self.spec_of(name).shape)
    >>> ones = Ones()
    >>> ones
    <Ones of ones: 1 tensor, 24 bytes>
    >>> ones.read("a", 4)
    tensor([1., 1.])
    >>> ones["b"]
    Traceback (most recent call last):
    KeyError: "no tensor 'b' in ones, which has 1"
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Blocks are what `read` gives: they must not go on coming from the class above.
        if "read" in cls.__dict__ and "blocks" not in cls.__dict__:
            cls.blocks = Checkpoint.blocks  # type: ignore[method-assign]

    @property
    @abstractmethod
    def specs(self) -> Mapping[str, Spec]:
        """Spec of every tensor by name, in the order of the file or module."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free-form strings stored beside the tensors."""
        return _NO_METADATA

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read for the tensors, in a fixed order; () where there is none."""
        return ()

    def reads_ranges(self, name: str) -> bool:
        """Whether `read` costs as little as what it gives; else all of the tensor is made for it.

        Raises:
            KeyError: no tensor has this name.
        """
        self.spec_of(name)
        return True

    def in_file(self, name: str) -> FileRange | None:
        """Say where the elements of a tensor lie in a file, in their order and dtype.

        None means that the tensor is computed, in memory, or stored in another way. What is read
        there is what `read` gives.

        Raises:
            KeyError: no tensor has this name.
        """
        self.spec_of(name)
        return None

    @abstractmethod
    def __getitem__(self, name: str) -> Tensor:
        """Return a whole tensor, of the shape and dtype that its spec says.

        Raises:
            KeyError: no tensor has this name; the message has the closest one.
        """

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the elements `start:stop` of a tensor, counted in row-major order.

        Args:
            name: of the tensor.
            start, stop: 0 <= start <= stop <= number of elements; None means to the end.

        Returns:
            A tensor of shape `(stop - start,)`.

        Raises:
            KeyError: no tensor has this name.
            InputError: the range is not inside the tensor.
        """
        start, stop = self.checked_range(name, start, stop)
        return self[name].reshape(-1)[start:stop]

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        """Yield the elements `start:stop` of a tensor, cut at the multiples of `size`.

        A block is valid until the next one is asked for: that may be the same tensor with other
        numbers.

        Raises:
            KeyError: no tensor has this name.
            InputError: the range is not inside the tensor.
        """
        start, stop = self.checked_range(name, start, stop)
        for begin, end in cut_at_multiples(start, stop, size):
            yield self.read(name, begin, end)

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        """Return every `step`-th of the elements `start:stop`, from the first on.

        Raises:
            KeyError: no tensor has this name.
            InputError: the range is not inside the tensor.
        """
        start, stop = self.checked_range(name, start, stop)
        if start == stop or not self.reads_ranges(name):
            return self.read(name, start, stop)[::step]
        begins = range(start, stop, max(_CHUNK // step, 1) * step)
        return torch.cat(
            [self.read(name, begin, min(begin + begins.step, stop))[::step] for begin in begins]
        )

    def spec_of(self, name: str) -> Spec:
        """Return `specs[name]`, or raise a KeyError that has the closest name."""
        spec = self.specs.get(name)
        if spec is None:
            close = closest_name(name, self.specs) if isinstance(name, str) else None
            hint = "" if close is None else f"; did you mean {close!r}?"
            raise KeyError(f"no tensor {name!r} in {self.source}, which has {len(self)}{hint}")
        return spec

    def checked_range(self, name: str, start: int, stop: int | None) -> tuple[int, int]:
        """Return the range with `stop` filled in, or raise an InputError if it does not fit."""
        numel = self.spec_of(name).numel
        end = numel if stop is None else stop
        if not 0 <= start <= end <= numel:
            raise InputError(
                f"the range {start}:{end} is not inside tensor {name!r} in {self.source}, which "
                f"has {numel} elements; 0 <= start <= stop <= {numel} is needed"
            )
        return start, end

    @property
    def source(self) -> str:
        """Where the data are, in words."""
        sources = list(dict.fromkeys(spec.source for spec in self.specs.values() if spec.source))
        if not sources:
            return "this checkpoint"
        return sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, name: object) -> bool:
        return name in self.specs  # Mapping's own would read the tensor

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        count = f"{len(self)} tensor{'' if len(self) == 1 else 's'}"
        nbytes = sum(spec.nbytes for spec in self.specs.values() if spec.alias_of is None)
        return f"<{type(self).__name__} of {self.source}: {count}, {nbytes:,} bytes>"


def cut_at_multiples(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the multiples of a size.

    >>> list(cut_at_multiples(3, 9, 4))
    [(3, 4), (4, 8), (8, 9)]
    """
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        yield start, end
        start = end
