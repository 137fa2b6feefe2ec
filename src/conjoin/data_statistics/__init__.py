"""A model and data -> named tensors: what its layers see, and what its parameters are worth.

model ──► trace ──► layers_of ──► Layer: where a weight meets activations
             └────► Program ──► Execution: a batch on its way, value by value

model + data ──► collect_statistics ──► {"LAYER:gram": ..., "PARAMETER:fisher": ...}
"""

from conjoin.data_statistics.collecting import WHAT, collect_statistics
from conjoin.data_statistics.execution import Execution, Program
from conjoin.data_statistics.features import (
    matrix_of_weight,
    rows_of_inputs,
    rows_of_outputs,
    weight_of_matrix,
)
from conjoin.data_statistics.layers import BatchNorm, Layer, layers_of

__all__ = [
    "WHAT",
    "BatchNorm",
    "Execution",
    "Layer",
    "Program",
    "collect_statistics",
    "layers_of",
    "matrix_of_weight",
    "rows_of_inputs",
    "rows_of_outputs",
    "weight_of_matrix",
]
