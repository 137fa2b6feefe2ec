"""Methods of merging: pure functions of tensors, and one table of them.

    merged = method([w_1, ..., w_n], parameters...)

A method knows no file, module or tensor name. It gets the same tensor of every model, in float32
(float64 and complex tensors stay as they are), and gives one tensor of that shape. To add one,
write the function and its row in `METHODS`.
"""

from conjoin.methods.averages import linear, mean, sum
from conjoin.methods.method import Method, Need
from conjoin.methods.table import METHODS, find_method

__all__ = ["METHODS", "Method", "Need", "find_method", "linear", "mean", "sum"]
