"""Several models trained side by side, pulled together tensor by tensor.

    loss_i(w_i) + sum_l strength_l * sum_{j != i} ||w_i[l] - w_j[l]||^2

Strength 0 is independent training; infinity on the trunk and 0 on the heads is the network with
several heads; between lies the continuum.
"""

from conjoin.coupling.coupling import Coupling
from conjoin.coupling.loaders import copies_of, cycle
from conjoin.coupling.normalization import pooled_normalization
from conjoin.coupling.presets import (
    elastic_averaging,
    fedprox,
    hard_sharing,
    local_sgd,
    papa,
    thread_loss,
)
from conjoin.coupling.stability import stable_strength
from conjoin.coupling.strength import Strength, by_depth, over_time, scaled, target_gap

__all__ = [
    "Coupling",
    "Strength",
    "by_depth",
    "copies_of",
    "cycle",
    "elastic_averaging",
    "fedprox",
    "hard_sharing",
    "local_sgd",
    "over_time",
    "papa",
    "pooled_normalization",
    "scaled",
    "stable_strength",
    "target_gap",
    "thread_loss",
]
