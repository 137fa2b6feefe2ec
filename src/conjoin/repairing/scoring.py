"""How good a repaired network is, on examples that its statistics do not come from."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from conjoin.batches import Data, Inputs, batches, inputs_of, read_logits, run_model, size_of
from conjoin.errors import DataError, InputError
from conjoin.evaluation import evaluating, outcomes

__all__ = ["Score", "score_by_agreement", "score_of"]


@dataclass(frozen=True, eq=False)
class Score:
    """A measure of a module.

    Args:
        measure: what the number is.
        of: module -> number, higher is better; None if it is not a number.
    """

    measure: str
    of: Callable[[nn.Module], float | None]


def score_of(
    validation: Mapping[str, Data] | Sequence[Data], parents: Sequence[nn.Module]
) -> Score:
    """Give the score on validation data: by labels if all have them, else by agreement.

    Args:
        validation: one data set for each task.
        parents: compared with if there are no labels.

    Raises:
        InputError: there is no data set; or none for each parent, and they have no labels.
        DataError: a data set has no batch.
    """
    named = (
        dict(validation)
        if isinstance(validation, Mapping)
        else {f"validation set {number}": part for number, part in enumerate(validation, 1)}
    )
    if not named:
        raise InputError("validation= has no data set; leave it out to hold out a part of the data")
    # Read more than once: an iterator could not be.
    kept = {name: list(d) if iter(batches(d, 1)) is d else d for name, d in named.items()}
    firsts: dict[str, Any] = {n: next(iter(batches(d, 500)), None) for n, d in kept.items()}
    for name, batch in firsts.items():
        if batch is None:
            raise DataError(f"{name} gave no batch; a loader can be used up: pass a list")
    if all(_has_labels(batch) for batch in firsts.values()):
        return _by_labels(kept, {n: batch[1].is_floating_point() for n, batch in firsts.items()})
    sets = [[inputs_of(batch) for batch in batches(part, 500)] for part in kept.values()]
    if len(sets) not in (1, len(parents)):
        raise InputError(
            f"without labels, validation= needs one data set for each of the {len(parents)} "
            f"parents, or one for all, to see whether they agree; there are {len(sets)}"
        )
    return score_by_agreement(sets, parents)


def _by_labels(named: Mapping[str, Data], regression: Mapping[str, bool]) -> Score:
    def of(module: nn.Module) -> float | None:
        scores = []
        for name, part in named.items():
            metrics = outcomes(module, part, name).metrics()
            scores.append(-metrics["loss"] if regression[name] else metrics["accuracy"])
        return _finite(sum(scores) / len(scores))

    kinds = set(regression.values())
    names = {False: "accuracy (percent)", True: "minus the mean squared error"}
    shown = " or ".join(names[kind] for kind in (False, True) if kind in kinds)
    return Score(f"{shown} on validation data, the mean over {_count(len(named))}", of)


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
        return _finite(sum(means) / len(means))

    kind = "the Kullback-Leibler divergence (nats)" if divergence else "the mean squared distance"
    return Score(f"minus {kind} of its outputs from those of the parents, the mean over them", of)


def _outputs(module: nn.Module, batch: Inputs) -> list[Tensor]:
    outputs = read_logits(run_model(module, batch))
    leaves = [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]
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


def _has_labels(batch: Any) -> bool:
    is_pair = isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2
    return is_pair and isinstance(batch[1], Tensor) and batch[1].dim() > 0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _count(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"
