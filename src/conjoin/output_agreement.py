"""How near a network's outputs are to those of the networks that it is made of."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from conjoin.batches import Inputs, run_model, size_of
from conjoin.errors import DataError
from conjoin.evaluation import evaluating

__all__ = ["Score", "finite_or_none", "score_by_agreement"]


@dataclass(frozen=True, eq=False)
class Score:
    """A measure of a module.

    Args:
        measure: what the number is.
        of: module -> number, higher is better; None if it is not a number.
    """

    measure: str
    of: Callable[[nn.Module], float | None]


def score_by_agreement(sets: Sequence[Sequence[Inputs]], parents: Sequence[nn.Module]) -> Score:
    """Give the score of a module by how near its outputs are to those of the parents.

        - mean_k mean_x KL(p_k(x) || p(x))    or    - mean_k mean_x |f_k(x) - f(x)|^2 / size

    The divergence is taken where the outputs are one tensor [B, C], C > 1, as those of a classifier
    are; the squared error elsewhere.

    Args:
        sets: batches of each parent's own data, or of one set for all.
        parents: what is agreed with.
    """
    given = list(sets) * len(parents) if len(sets) == 1 else list(sets)
    with torch.no_grad(), evaluating(parents):
        wanted = [
            [_outputs(parent, batch) for batch in part]
            for parent, part in zip(parents, given, strict=True)
        ]
    everything = [one for each in wanted for one in each]
    divergence = all(
        len(one) == 1 and one[0].dim() == 2 and one[0].shape[1] > 1 for one in everything
    )

    def of(module: nn.Module) -> float | None:
        means = []
        with torch.no_grad(), evaluating([module]):
            for part, theirs in zip(given, wanted, strict=True):
                apart, examples = 0.0, 0
                for batch, one in zip(part, theirs, strict=True):
                    other = _outputs(module, batch)
                    apart += size_of(batch) * (_divergence if divergence else _error)(one, other)
                    examples += size_of(batch)
                means.append(-apart / max(1, examples))
        return finite_or_none(sum(means) / len(means))

    kind = "the Kullback-Leibler divergence (nats)" if divergence else "the mean squared distance"
    return Score(f"minus {kind} of its outputs from those of the parents, the mean over them", of)


def _outputs(module: nn.Module, batch: Inputs) -> list[Tensor]:
    leaves = [one for one in tree_leaves(run_model(module, batch)) if isinstance(one, Tensor)]
    found = [one.detach().double().cpu() for one in leaves if one.is_floating_point()]
    if not found:
        raise DataError(f"{type(module).__name__} gives no tensor of floating-point numbers")
    return found


def _divergence(theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> float:
    one, other = theirs[0].log_softmax(1), ours[0].log_softmax(1)
    return float((one.exp() * (one - other)).sum(1).mean())


def _error(theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> float:
    pairs = list(zip(theirs, ours, strict=True))
    return sum(float((a - b).square().mean()) for a, b in pairs) / len(pairs)


def finite_or_none(value: float) -> float | None:
    """Give None for what is no finite number, so that it can be told from a bad score."""
    return value if math.isfinite(value) else None
