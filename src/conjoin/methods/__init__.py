"""Methods of merging: pure functions of tensors, and one table of them.

    merged = method([w_1, ..., w_n], parameters...)

A method knows no file, module or tensor name. It gets the same tensor of every model, or the same
block of it, in float32 (float64 and complex tensors stay as they are), and gives one tensor of that
shape. To add one, write the function and its row in `METHODS`.
"""

from conjoin.methods.averages import linear, mean, passthrough, sum
from conjoin.methods.dare import dare_linear, dare_ties
from conjoin.methods.mergekit_defaults import (
    MERGEKIT_DEFAULTS,
    MERGEKIT_IGNORED,
    MERGEKIT_NAMES,
    MERGEKIT_VALUES,
)
from conjoin.methods.method import Method, Need, Total
from conjoin.methods.parameters import Within
from conjoin.methods.spheres import slerp
from conjoin.methods.table import METHODS, find_method
from conjoin.methods.task_arithmetic import task_arithmetic
from conjoin.methods.ties import ties

__all__ = [
    "MERGEKIT_DEFAULTS",
    "MERGEKIT_IGNORED",
    "MERGEKIT_NAMES",
    "MERGEKIT_VALUES",
    "METHODS",
    "Method",
    "Need",
    "Total",
    "Within",
    "dare_linear",
    "dare_ties",
    "find_method",
    "linear",
    "mean",
    "passthrough",
    "slerp",
    "sum",
    "task_arithmetic",
    "ties",
]
