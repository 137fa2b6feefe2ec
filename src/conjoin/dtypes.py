"""Dtypes of torch, and what is known of them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from conjoin.deferred import torch

__all__ = [
    "DTYPES",
    "FLOAT32",
    "FLOAT64",
    "DType",
    "bits_of",
    "dtype_of",
    "is_known",
    "promoted",
]


@dataclass(frozen=True, slots=True, repr=False)
class DType:
    """A dtype.

    Args:
        name: its attribute of torch.
        itemsize: bytes of an element.
        is_floating_point: whether its numbers are real, with a fraction.
        is_complex: whether they are complex.

    >>> DTYPES["bfloat16"].torch is torch.bfloat16, DTYPES["bfloat16"]
    (True, torch.bfloat16)
    """

    name: str
    itemsize: int
    is_floating_point: bool = False
    is_complex: bool = False

    @property
    def torch(self) -> torch.dtype:
        """The dtype itself."""
        found: torch.dtype = getattr(torch, self.name)
        return found

    def __repr__(self) -> str:
        return f"torch.{self.name}"


_FLOATS = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2},
    **{"float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1},
    "float8_e8m0fnu": 1,
}
_COMPLEX = {"complex32": 4, "complex64": 8, "complex128": 16}
_OTHERS = {
    **{"int64": 8, "int32": 4, "int16": 2, "int8": 1},
    **{"uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1},
}
_NEW = frozenset({"float8_e8m0fnu"})
"""Newer than the oldest torch that conjoin supports."""

DTYPES = MappingProxyType(
    {
        **{name: DType(name, size, is_floating_point=True) for name, size in _FLOATS.items()},
        **{name: DType(name, size, is_complex=True) for name, size in _COMPLEX.items()},
        **{name: DType(name, size) for name, size in _OTHERS.items()},
    }
)
"""By name. Torch has others, which no file and no method knows."""

FLOAT32, FLOAT64 = DTYPES["float32"], DTYPES["float64"]


def dtype_of(value: torch.dtype | DType) -> DType:
    """Give what is known of a dtype.

    >>> dtype_of(torch.float16) is DTYPES["float16"], dtype_of(torch.float16).itemsize
    (True, 2)
    """
    if isinstance(value, DType):
        return value
    name = str(value).removeprefix("torch.")
    if name in DTYPES:
        return DTYPES[name]
    return DType(name, value.itemsize, value.is_floating_point, value.is_complex)


def is_known(dtype: DType) -> bool:
    """Say whether this version of torch has a dtype.

    >>> is_known(DTYPES["bfloat16"])
    True
    """
    return dtype.name not in _NEW or hasattr(torch, dtype.name)


def promoted(one: DType, other: DType) -> DType:
    """Give the dtype that has the numbers of both, as torch does.

    >>> promoted(FLOAT32, DTYPES["complex64"]).name, promoted(FLOAT32, FLOAT64).name
    ('complex64', 'float64')
    """
    return one if one == other else dtype_of(torch.promote_types(one.torch, other.torch))


def bits_of(dtype: torch.dtype) -> torch.dtype:
    """Give the integers that are as large as the numbers of a dtype.

    >>> bits_of(torch.float64)
    torch.int64
    """
    return DTYPES[f"int{8 * dtype.itemsize}"].torch
