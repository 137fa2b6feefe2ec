"""The steps that optimizers make, counted for each model from pull to pull.

What counts as a step of a model:

    its optimizer stepped, and a gradient reached any of its parameters      D of all grows
    its optimizer stepped, and there was none at all (no batch for it)       D stays
    mixed precision skipped the step                                         D stays

A parameter without a gradient, in a model that has others, has the derivative 0, and is to follow
the other models; a model without any has made no step, and is an anchor to them.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from conjoin.coupling.effective_steps import EffectiveStep, effective_step, step_rate
from conjoin.coupling.members import Member
from conjoin.errors import InputError

__all__ = ["IdlePulls", "StepCounter", "count_steps"]

IDLE_WITH_CHANGES, IDLE_AT_ALL = 5, 1000
"""Pulls in a row without a step that are an error: where weights changed meanwhile, and always."""


@dataclass(eq=False)
class StepCounter:
    """Counts the steps of a model, and adds up how long they were, from pull to pull.

    A step that mixed precision skips, because a gradient overflowed, does not count: unfused
    optimizers are not called then, and fused ones carry the mark ``found_inf`` while they are.

    Args:
        member: whose steps are counted.
        steps: that its optimizer has made since the last pull.
        rates: by number of the parameter group: the sum of `step_rate` over the steps in which
            the model had a gradient.
        called: whether the optimizer was called since the last pull, be it that it skipped.
        reached: whether the model has a gradient of its own, if `look` was called for this step.
    """

    member: Member
    steps: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    called: bool = False
    reached: bool | None = None

    def look(self) -> None:
        """See whether the model has a gradient of its own, before it gets those of others."""
        self.reached = self._has_gradient()

    def count(self, optimizer: Optimizer) -> None:
        """Count a step, after it."""
        self.called = True
        reached = self._has_gradient() if self.reached is None else self.reached
        self.reached = None
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return
        self.steps += 1
        if not reached:
            return
        for number, group in enumerate(optimizer.param_groups):
            self.rates[number] = self.rates.get(number, 0.0) + step_rate(optimizer, group)

    def reset(self) -> None:
        """Begin anew, after a pull."""
        self.steps, self.rates, self.called, self.reached = 0, {}, False, None

    def effective(self, name: str, numbers: Mapping[int, int]) -> EffectiveStep:
        """Give D of a parameter for the steps counted; 0 for one that is frozen.

        Args:
            name: of the parameter.
            numbers: of the optimizer's groups, as `Member.group_numbers` gives them.
        """
        parameter = self.member.parameters[name]
        number = numbers.get(id(parameter))
        if number is None or not parameter.requires_grad:
            return EffectiveStep(0.0)
        rate = self.rates.get(number, 0.0)
        return effective_step(self.member.optimizer, number, parameter, rate)

    def _has_gradient(self) -> bool:
        # Of what the optimizer moves only: nobody may set other gradients back.
        own = {id(parameter) for parameter in self.member.parameters.values()}
        return any(
            parameter.grad is not None and id(parameter) in own
            for group in self.member.optimizer.param_groups
            for parameter in group["params"]
        )


def count_steps(
    members: Sequence[Member], counted: Sequence[StepCounter] = ()
) -> tuple[StepCounter, ...]:
    """Give a counter of each model; it counts for as long as somebody holds it.

    Args:
        members: whose steps are counted from now on.
        counted: what each has made so far; nothing, if it is left out.

    >>> import torch
    >>> net = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> (counter,) = count_steps([Member("a", net, optimizer)])
    >>> optimizer.step()              # without a gradient
    >>> counter.steps, counter.rates
    (1, {})
    >>> net(torch.ones(1)).backward()
    >>> optimizer.step()
    >>> counter.steps, counter.rates
    (2, {0: 0.1})
    """
    before = counted or [StepCounter(member) for member in members]
    counters = []
    for member, counter in zip(members, before, strict=True):
        rates = dict(counter.rates)
        own = StepCounter(member, counter.steps, rates, counter.called, counter.reached)
        _hook(member.optimizer, own)
        counters.append(own)
    return tuple(counters)


@dataclass
class IdlePulls:
    """Pulls in a row before which no optimizer of the coupling had stepped.

    A few are fine: while gradients are accumulated, or mixed precision skips steps. Weights that
    change meanwhile are moved by other optimizers than those that were given.

    Args:
        pulls: in a row.
        changes: how many of them found weights that had changed since the one before.
        version: of all weights at the last one: how often torch has changed them.
    """

    pulls: int = 0
    changes: int = 0
    version: int | None = None

    def reset(self) -> None:
        """Begin anew, after a step."""
        self.pulls, self.changes, self.version = 0, 0, None

    def add(self, members: Sequence[Member]) -> None:
        """Count a pull without a step.

        Raises:
            InputError: there were too many of them.
        """
        version = sum(p._version for member in members for p in member.parameters.values())
        self.pulls += 1
        self.changes += self.version is not None and version != self.version
        self.version = version
        # Fused optimizers change weights without a trace in the version.
        if self.changes >= IDLE_WITH_CHANGES or self.pulls >= IDLE_AT_ALL:
            raise InputError(
                f"pull() was called {self.pulls} times, and no optimizer of this coupling has "
                "stepped in between, so that nothing was pulled. Step the very optimizers that "
                "were given to Coupling, or use coupling.step(); where optimizers are made anew, "
                "make the coupling anew with them"
            )


def _hook(optimizer: Optimizer, counter: StepCounter) -> None:
    """Let an optimizer call a counter after each step; the hook goes when the counter does."""
    # By a weak reference: the optimizer may be used long after what it was coupled by.
    counter_of = weakref.ref(counter)

    def count(optimizer: Optimizer, *_: Any) -> None:
        if (counter := counter_of()) is not None:
            counter.count(optimizer)

    handle = optimizer.register_step_post_hook(count)
    weakref.finalize(counter, handle.remove).atexit = False
