"""Couplings that have names: each is `Coupling` with other settings.

| preset | each model's weights after its step | paper |
|---|---|---|
| `thread_loss` | nothing: the pull is a term of the loss | the question that conjoin began with |
| `fedprox` | pulled to the last average; all are averaged after a round | Li et al., MLSys 2020 |
| `elastic_averaging` | pulled to a center that is pulled to them | Zhang et al., NeurIPS 2015 |
| `papa` | a share of the mean, every k steps | Jolicoeur-Martineau et al., TMLR 2024 |
| `local_sgd` | the mean, every k steps | Stich, ICLR 2019 |
| `hard_sharing` | one tensor where patterns match | Caruana, Machine Learning 1997 |
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from torch import nn
from torch.optim import Optimizer

from conjoin.coupling.checks import Start
from conjoin.coupling.coupling import Coupling
from conjoin.coupling.pulls import ANCHORED, AVERAGE, ELASTIC, PENALTY
from conjoin.coupling.strength import Strength
from conjoin.errors import InputError

__all__ = ["elastic_averaging", "fedprox", "hard_sharing", "local_sgd", "papa", "thread_loss"]

Models = Mapping[str, tuple[nn.Module, Optimizer]]


def thread_loss(models: Models, strength: Strength, *, start: Start = "shared") -> Coupling:
    """Give the thread's own form: ``coupling.penalty(name)`` is added to each model's loss.

    `Coupling.pull` only counts steps then, so that schedules and target gaps work.

    >>> net, other = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> other.load_state_dict(net.state_dict()) and None
    >>> models = {n: (m, __import__("torch").optim.SGD(m.parameters(), 0.1))
    ...           for n, m in (("a", net), ("b", other))}
    >>> thread_loss(models, 1.0).penalty("a").item()
    0.0
    """
    return Coupling(models, strength, rule=PENALTY, start=start)


def fedprox(models: Models, mu: Strength, *, round_steps: int) -> Coupling:
    """Give FedProx with every client taking part in every round.

        w_i = argmin loss_i(w) + mu / 2 * ||w - w_round||^2      by proximal steps
        w_round = mean_i w_i                                     after `round_steps` steps

    Args:
        models: name -> (module, optimizer), from one start.
        mu: of the paper; a strength of any kind. 0 is private, as for every coupling: for plain
            federated averaging use `local_sgd`.
        round_steps: optimizer steps of a round.

    Source: Li et al., Federated optimization in heterogeneous networks, MLSys 2020.
    """
    return Coupling(models, mu, rule=ANCHORED, rounds=round_steps)


def elastic_averaging(models: Models, alpha: Strength, *, every: int = 1) -> Coupling:
    """Give synchronous elastic averaging SGD.

        w_i <- w_i - alpha (w_i - center)       center <- center + alpha sum_i (w_i - center)

    Args:
        models: name -> (module, optimizer), from one start, which is the first center.
        alpha: the moving rate, ``learning rate * rho`` in the paper; N * alpha is at most 1 there.
        every: the communication period.

    Source: Zhang, Choromanska and LeCun, Deep learning with elastic averaging SGD, NeurIPS 2015.
    """
    if isinstance(alpha, Real) and not 0 <= float(alpha) <= 1:
        raise InputError(f"alpha is a share from 0 to 1, not {alpha}")
    return Coupling(models, alpha, rule=ELASTIC, every=every)


def papa(
    models: Models, rate: float = 0.99, *, every: int = 10, start: Start = "shared"
) -> Coupling:
    """Give PAPA: ``w_i <- rate * w_i + (1 - rate) * mean`` every `every` steps.

    Source: Jolicoeur-Martineau et al., Population parameter averaging, TMLR 2024.
    """
    if not isinstance(rate, Real) or not 0 <= rate <= 1:
        raise InputError(f"rate is the share that stays, from 0 to 1, not {rate!r}")
    return Coupling(models, 1.0 - rate, rule=AVERAGE, every=every, start=start)


def local_sgd(models: Models, *, every: int) -> Coupling:
    """Give local SGD (federated averaging): all weights become their mean every `every` steps.

    Source: Stich, Local SGD converges fast and communicates little, ICLR 2019.
    """
    return Coupling(models, 1.0, rule=AVERAGE, every=every)


def hard_sharing(models: Models, patterns: str | Sequence[str]) -> Coupling:
    """Give one tensor to all models where a pattern matches; the rest is private.

    With the pattern of a trunk this trains the network with several heads.

    Source: Caruana, Multitask learning, Machine Learning 28, 1997.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return Coupling(models, dict.fromkeys(patterns, math.inf))
