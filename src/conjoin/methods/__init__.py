"""Methods of merging: pure functions of tensors, and one table of them.

    merged = method([w_1, ..., w_n], parameters...)

A method knows no file, module or tensor name. It gets the same tensor of every model, or the same
block of it, in float32 (float64 and complex tensors stay as they are), and gives one tensor of that
shape. To add one, write the function and its row in `METHODS`.
"""

from conjoin.methods.arcee_fusion import arcee_fusion
from conjoin.methods.averages import linear, mean, passthrough, sum
from conjoin.methods.breadcrumbs import breadcrumbs, breadcrumbs_ties
from conjoin.methods.consensus import consensus, tall_mask
from conjoin.methods.dare import dare_linear, dare_ties
from conjoin.methods.della import della, della_linear
from conjoin.methods.differences import add_difference, train_difference
from conjoin.methods.emr import emr
from conjoin.methods.expo import expo
from conjoin.methods.geometric_median import geometric_median
from conjoin.methods.isotropic import iso_c, iso_cts
from conjoin.methods.karcher import karcher
from conjoin.methods.knots import knots_ties
from conjoin.methods.magmax import magmax
from conjoin.methods.medians import median, trimmed_mean
from conjoin.methods.mergekit_defaults import (
    MERGEKIT_DEFAULTS,
    MERGEKIT_IGNORED,
    MERGEKIT_NAMES,
    MERGEKIT_VALUES,
)
from conjoin.methods.method import Method, Need, Total, TotalOf
from conjoin.methods.model_stock import model_stock
from conjoin.methods.multislerp import multislerp
from conjoin.methods.nearswap import nearswap
from conjoin.methods.nuslerp import nuslerp
from conjoin.methods.parameters import Within
from conjoin.methods.ram import ram, ramplus_tl
from conjoin.methods.sce import sce
from conjoin.methods.spheres import slerp
from conjoin.methods.table import METHODS, find_method
from conjoin.methods.task_arithmetic import task_arithmetic
from conjoin.methods.ties import ties
from conjoin.methods.tsv import tsv

__all__ = [
    "MERGEKIT_DEFAULTS",
    "MERGEKIT_IGNORED",
    "MERGEKIT_NAMES",
    "MERGEKIT_VALUES",
    "METHODS",
    "Method",
    "Need",
    "Total",
    "TotalOf",
    "Within",
    "add_difference",
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "consensus",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "emr",
    "expo",
    "find_method",
    "geometric_median",
    "iso_c",
    "iso_cts",
    "karcher",
    "knots_ties",
    "linear",
    "magmax",
    "mean",
    "median",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "sce",
    "slerp",
    "sum",
    "tall_mask",
    "task_arithmetic",
    "ties",
    "train_difference",
    "trimmed_mean",
    "tsv",
]
