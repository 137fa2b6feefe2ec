"""The table of methods: one visible row for each."""

from collections.abc import Mapping
from difflib import get_close_matches

from conjoin.errors import MethodError
from conjoin.methods.averages import linear, mean, sum
from conjoin.methods.method import Method, Need

__all__ = ["METHODS", "find_method"]

_ROWS = (
    Method("sum", sum, "w_1 + ... + w_n"),
    Method("mean", mean, "(w_1 + ... + w_n) / n", paper="arXiv:2203.05482"),
    Method(
        "linear",
        linear,
        "sum_i a_i w_i / sum_i a_i",
        needs=frozenset({Need.WEIGHTS}),
        paper="arXiv:2203.05482",
    ),
)

METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}


def find_method(name: str) -> Method:
    """Give the method of this name.

    Raises:
        MethodError: there is none; the message has the closest.

    >>> find_method("mean").elementwise
    True
    """
    if name not in METHODS:
        close = get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise MethodError(f"no method {name!r}{hint} There are: {', '.join(METHODS)}")
    return METHODS[name]
