"""What mergekit's recipes mean in conjoin's parameters.

mergekit differs from the papers in some of its methods. Each such variant is a value of a
parameter here, the paper's is the default, and recipes read from mergekit's YAML get these:

- ties trims within each tensor, not over the whole model; it divides by the sum of the weights
  that agree, not by their number; an even vote is positive. By default nothing is trimmed.
- dare restores the sum of magnitudes of each tensor; the paper divides by the density.
- dare_ties adds up what agrees, and divides by nothing.
- della restores the sum of magnitudes of each tensor, not the expectation of each element, and
  divides by the sum of the weights that agree.
- breadcrumbs_ties adds up what agrees, and divides by nothing.
- sce selects a share of the elements where the models differ, and divides by the sum of the
  weights that agree; an even vote is positive.
- slerp takes a straight line already at a cosine of 0.9995.

Checked against mergekit's source of June 2026 (after its 0.1.4). Where it gives a wrong result
without a word, conjoin does not follow: weights that cancel under normalization are an error here,
and not left undivided (task_arithmetic, dare_linear) or infinite (linear); a density that leaves
less than one element of a small tensor keeps its largest, and does not stop the merge; slerp with
a tensor of zeros is a straight line, and not the arc to a vector at right angles; changes that are
tiny altogether (a sum of magnitudes under 1e-7) are rescaled like others. karcher counts tensors
of a length under 1e-5, and model_stock changes of lengths whose product is under 1e-6, like others,
not as zeros; model_stock stays at the base where models go against each other, and does not go
away from them; multislerp of directions that cancel is the weighted mean, and does not stop the
merge; nearswap with t under 1e-6 is its formula; arcee_fusion has the quartiles of all scores, not
of a sample; filters of a convolution are whole.
Breadcrumbs keeps its elements where gamma is less than one element of a small tensor, and does
not lose them all; della takes a row of one element, and ranks all weights of an output of a
convolution; sce weighs models by changes of any size, and not equally where their mean square is
under 1e-6, as it is after most fine-tuning.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["MERGEKIT_DEFAULTS", "MERGEKIT_IGNORED", "MERGEKIT_NAMES", "MERGEKIT_VALUES"]

_DARE = {"density": 1.0, "rescale": "l1", "scale": 1.0}
_VOTE = {"elect": "sum", "undecided": "positive"}
_CRUMBS = {"density": 1.0, "gamma": 0.01, "per": "tensor", "rescale": "none", "scale": 1.0}

MERGEKIT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"normalize": True},
    "passthrough": {"scale": 1.0},
    "slerp": {"eps": 0.0005},
    "nuslerp": {"row_wise": False, "flatten": True},
    "multislerp": {"normalize": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "model_stock": {"filter_wise": False},
    "nearswap": {},
    "arcee_fusion": {},
    "task_arithmetic": {"normalize": False, "scale": 1.0},
    "ties": {
        "density": 1.0,
        "per": "tensor",
        "rescale": "none",
        **_VOTE,
        "merge": "weighted",
        "scale": 1.0,
    },
    "dare_linear": {**_DARE, "normalize": False},
    "dare_ties": {**_DARE, **_VOTE, "merge": "sum"},
    "della": {**_DARE, **_VOTE, "epsilon": 0.15, "per": "row", "merge": "weighted"},
    "della_linear": {**_DARE, "epsilon": 0.15, "per": "row", "normalize": False},
    "breadcrumbs": {**_CRUMBS, "normalize": False},
    "breadcrumbs_ties": {**_CRUMBS, **_VOTE, "merge": "sum"},
    "sce": {
        "select_topk": 1.0,
        "among": "differing",
        "undecided": "positive",
        "merge": "weighted",
    },
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5, "per": "tensor"},
}
"""Method -> our parameters with which it does what mergekit does when nothing is said."""

MERGEKIT_NAMES: Mapping[str, Mapping[str, str]] = {
    "linear": {"weight": "weights"},
    "passthrough": {},
    "slerp": {},
    "nuslerp": {
        "weight": "weights",
        "nuslerp_row_wise": "row_wise",
        "nuslerp_flatten": "flatten",
    },
    "multislerp": {"weight": "weights", "normalize_weights": "normalize"},
    "karcher": {},
    "model_stock": {},
    "nearswap": {},
    "arcee_fusion": {},
    "task_arithmetic": {"weight": "weights", "lambda": "scale"},
    "ties": {"weight": "weights", "lambda": "scale", "normalize": "merge"},
    "dare_linear": {"weight": "weights", "lambda": "scale"},
    "dare_ties": {"weight": "weights", "lambda": "scale", "normalize": "merge"},
    "della": {"weight": "weights", "lambda": "scale", "normalize": "merge"},
    "della_linear": {"weight": "weights", "lambda": "scale"},
    "breadcrumbs": {"weight": "weights", "lambda": "scale"},
    "breadcrumbs_ties": {"weight": "weights", "lambda": "scale", "normalize": "merge"},
    "sce": {},
    "ram": {},
    "ramplus_tl": {},
}
"""Method -> mergekit's parameter -> ours. A name that is not here is the same."""

_RESCALE = {True: "l1", False: "none"}
_MERGE = {True: "weighted", False: "sum"}

MERGEKIT_VALUES: Mapping[str, Mapping[str, Mapping[Any, Any]]] = {
    "ties": {"normalize": _MERGE, "rescale": _RESCALE},
    "dare_linear": {"rescale": _RESCALE},
    "dare_ties": {"normalize": _MERGE, "rescale": _RESCALE},
    "della": {"normalize": _MERGE, "rescale": _RESCALE},
    "della_linear": {"rescale": _RESCALE},
    "breadcrumbs": {"rescale": _RESCALE},
    "breadcrumbs_ties": {"normalize": _MERGE, "rescale": _RESCALE},
}
"""Method -> mergekit's parameter -> its value -> the value of ours."""

MERGEKIT_IGNORED: Mapping[str, frozenset[str]] = {
    "task_arithmetic": frozenset({"int8_mask", "rescale", "density"}),
    "ties": frozenset({"int8_mask"}),
    "dare_linear": frozenset({"int8_mask"}),
    "dare_ties": frozenset({"int8_mask"}),
    "karcher": frozenset({"weight"}),
    "della": frozenset({"int8_mask"}),
    "della_linear": frozenset({"int8_mask"}),
    "breadcrumbs": frozenset({"int8_mask"}),
    "breadcrumbs_ties": frozenset({"int8_mask"}),
    "sce": frozenset({"int8_mask"}),
}
"""Method -> mergekit's parameters that change nothing in its result (int8_mask saves memory)."""
