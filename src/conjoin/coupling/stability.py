"""Up to which strength the penalty in the loss is stable; the joint pull always is."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.optim import SGD

from conjoin.arguments import as_numbers
from conjoin.coupling.members import Member
from conjoin.errors import InputError, StabilityWarning

__all__ = ["stable_strength", "warn_if_unstable"]


def stable_strength(
    learning_rates: Sequence[float],
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
) -> float:
    """Give the strength from which the penalty in each model's loss makes SGD diverge.

    Of N models, each pulled to all others, differences between them have the curvature
    ``2 * strength * mu``, with mu the largest eigenvalue of ``diag(lr) (N I - 1 1^T)`` (for one
    learning rate, ``N * lr``). SGD is stable while that is below

        2                                  without momentum
        2 (1 + m) / (1 - dampening)        momentum m
        2 (1 + m) / (1 + 2 m)              Nesterov

    For two models with one rate: ``lr * strength`` below 0.5; 0.95 with momentum 0.9; 0.34 with
    Nesterov 0.9. The curvature of the losses comes on top.

    Args:
        learning_rates: of each model.
        momentum, dampening, nesterov: as of `torch.optim.SGD`.

    Raises:
        InputError: fewer than two rates, a negative one, or a momentum of 1 or more.

    >>> stable_strength([0.1, 0.1])
    5.0
    >>> round(0.1 * stable_strength([0.1, 0.1], momentum=0.9, nesterov=True), 3)
    0.339
    """
    rates = as_numbers(learning_rates, "learning_rates")
    count = len(rates)
    if count < 2:
        raise InputError("a penalty needs two models or more, and a learning rate of each")
    if min(rates) < 0:
        raise InputError(f"learning rates are 0 or more, not {list(rates)}")
    if not 0 <= momentum < 1:
        raise InputError(f"a momentum is 0 or more and less than 1, not {momentum!r}")
    if nesterov:
        limit = 2 * (1 + momentum) / (1 + 2 * momentum)
    else:
        limit = 2 * (1 + momentum) / (1 - (dampening if momentum else 0.0))
    # diag(lr) M has the eigenvalues of the symmetric diag(lr)^1/2 M diag(lr)^1/2.
    roots = np.sqrt(np.asarray(rates))
    matrix = roots[:, None] * (count * np.eye(count) - 1.0) * roots[None, :]
    largest = float(np.linalg.eigvalsh(matrix)[-1])
    return float("inf") if largest == 0 else limit / (2 * largest)


def warn_if_unstable(members: Sequence[Member], strengths: Mapping[str, float]) -> bool:
    """Warn if a strength is too large for the present learning rates; say whether it was."""
    if not all(type(member.optimizer) is SGD for member in members):
        return False  # Adam divides a gradient by its size: it jitters, but does not diverge
    numbers = [member.group_numbers() for member in members]
    for name, strength in strengths.items():
        groups = [
            _group(member, known.get(id(member.parameters[name])))
            for member, known in zip(members, numbers, strict=True)
        ]
        moving = [group for group in groups if group is not None]
        if not moving:
            continue
        rates = [0.0 if group is None else float(group["lr"]) for group in groups]
        limit = min(
            stable_strength(
                rates,
                momentum=float(group["momentum"]),
                dampening=float(group["dampening"]),
                nesterov=bool(group["nesterov"]),
            )
            for group in moving
        )
        if strength >= limit:
            warnings.warn(
                f"the penalty on {name!r} has strength {strength:g}, and from {limit:.3g} on it "
                f"diverges at the learning rates {rates}. Use a Coupling that pulls (the default), "
                "which is stable at every strength",
                StabilityWarning,
                stacklevel=3,
            )
            return True
    return False


def _group(member: Member, number: int | None) -> Mapping[str, Any] | None:
    return None if number is None else member.optimizer.param_groups[number]
