"""The table of methods: one visible row for each."""

from collections.abc import Mapping
from difflib import get_close_matches

from conjoin.errors import MethodError
from conjoin.methods.averages import linear, mean, passthrough, sum
from conjoin.methods.dare import dare_linear, dare_ties, find_factors
from conjoin.methods.method import Method, Need
from conjoin.methods.spheres import measure_angle, slerp
from conjoin.methods.task_arithmetic import task_arithmetic
from conjoin.methods.ties import find_thresholds, ties

__all__ = ["METHODS", "find_method"]

_BASE_AND_WEIGHTS = frozenset({Need.BASE, Need.WEIGHTS})

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
    Method("passthrough", passthrough, "s w_1", models=1, paper="arXiv:2312.15166"),
    Method(
        "slerp",
        slerp,
        "(sin((1-t) theta) w_1 + sin(t theta) w_2) / sin(theta)",
        summarize=measure_angle,
        models=2,
        paper="doi:10.1145/325165.325242",
    ),
    Method(
        "task_arithmetic",
        task_arithmetic,
        "w_0 + s sum_i a_i (w_i - w_0)",
        needs=_BASE_AND_WEIGHTS,
        paper="arXiv:2212.04089",
    ),
    Method(
        "ties",
        ties,
        "w_0 + s mean of those a_i trim(w_i - w_0) that have the sign of their sum",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_thresholds,
        paper="arXiv:2306.01708",
    ),
    Method(
        "dare_linear",
        dare_linear,
        "w_0 + s sum_i a_i m_i (w_i - w_0) / p_i",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_factors,
        paper="arXiv:2311.03099",
    ),
    Method(
        "dare_ties",
        dare_ties,
        "w_0 + s mean of those a_i m_i (w_i - w_0) / p_i that have the sign of their sum",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_factors,
        paper="arXiv:2311.03099",
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
