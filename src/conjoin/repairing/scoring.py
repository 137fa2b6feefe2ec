"""How good a repaired network is, on examples that its statistics do not come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from conjoin.batches import Data, batches, inputs_of
from conjoin.errors import DataError, InputError
from conjoin.evaluation import outcomes
from conjoin.output_agreement import Score, finite_or_none, score_by_agreement

__all__ = ["score_of"]


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
        return finite_or_none(sum(scores) / len(scores))

    kinds = set(regression.values())
    names = {False: "accuracy (percent)", True: "minus the mean squared error"}
    shown = " or ".join(names[kind] for kind in (False, True) if kind in kinds)
    return Score(f"{shown} on validation data, the mean over {_count(len(named))}", of)


def _has_labels(batch: Any) -> bool:
    is_pair = isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2
    return is_pair and isinstance(batch[1], Tensor) and batch[1].dim() > 0


def _count(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"
