"""What a coupling checks of what it is given."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from conjoin.arguments import as_whole
from conjoin.coupling.pulls import PENALTY, Rule
from conjoin.errors import InputError

__all__ = ["Start", "check_options", "check_penalty", "check_scaler", "check_state"]

Start = Literal["shared", "any"]


def check_options(every: int, start: Start, rule: Rule, rounds: int | None) -> None:
    """Raise an InputError if an option of `Coupling` cannot be used."""
    as_whole(every, "every", 1)
    if start not in ("shared", "any"):
        raise InputError(f"start is 'shared' or 'any', not {start!r}")
    if not isinstance(rule, Rule):
        raise InputError(
            f"rule is one of conjoin.coupling.pulls, such as JOINT, not {rule!r}; what has a name "
            "is a function: conjoin.coupling.papa, fedprox, elastic_averaging, local_sgd"
        )
    if rounds is not None:
        as_whole(rounds, "rounds", 1)
        if not rule.center:
            raise InputError(f"rounds are for rules with a center; {rule.name} has none")


def check_penalty(
    name: str, names: Sequence[str], rule: Rule, strengths: Mapping[str, float]
) -> None:
    """Raise an InputError if a coupling gives no penalty of a model."""
    if name not in names:
        raise InputError(f"no model {name!r} in this coupling; there are {tuple(names)}")
    if rule != PENALTY:
        raise InputError(
            f"this coupling pulls by the {rule.name}; with the penalty in the loss as well it "
            "would be twice as strong. For the penalty alone, make it with "
            "conjoin.coupling.thread_loss(models, strength)"
        )
    if math.inf in strengths.values():
        raise InputError("an infinite penalty has no gradient; use a Coupling that pulls")


def check_scaler(scaler: Any) -> None:
    """Raise an InputError if this scales no gradients; None is fine."""
    if scaler is not None and not hasattr(scaler, "unscale_"):
        raise InputError(
            f"expected a scaler of mixed precision (torch.amp.GradScaler) or nothing, not "
            f"{scaler!r:.80}; steps are counted by themselves"
        )


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise an InputError if a coupling cannot go on from a state.

    Args:
        state: what was passed.
        own: the state that the coupling is in.
        names: of its tensors.
    """
    if not isinstance(state, Mapping) or state.keys() != own.keys():
        found = f"{list(state)[:5]}" if isinstance(state, Mapping) else type(state).__name__
        raise InputError(
            f"expected the state of a coupling, as Coupling.state_dict gives it, with "
            f"{', '.join(own)}; found {found}. Models and optimizers load their own states"
        )
    same = len(state["counters"]) == len(own["counters"])
    same = same and set(state["center"]) == set(own["center"])
    if not same or not set(state["tied"]) <= set(names):
        raise InputError("this state is of a coupling of other models or another rule")
