"""`Coupling`: several models trained side by side, pulled together tensor by tensor."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conjoin.batches import Data
from conjoin.coupling.checks import Start, check_options, check_penalty, check_scaler, check_state
from conjoin.coupling.counting import IdlePulls, count_steps
from conjoin.coupling.effective_steps import EffectiveStep, OtherOptimizers, check_optimizer
from conjoin.coupling.handing_over import hand_over
from conjoin.coupling.members import (
    check_coupled,
    check_shareable,
    check_start,
    common_names,
    layers_of_members,
    read_members,
    relative_gap,
)
from conjoin.coupling.pulling import average, penalty_of, pull_tensor, rows_of
from conjoin.coupling.pulls import JOINT, Rule
from conjoin.coupling.sharing import (
    check_alike,
    check_shared,
    check_still_equal,
    share_gradients,
    share_overflow,
    tie,
)
from conjoin.coupling.stability import warn_if_unstable
from conjoin.coupling.strength import (
    Strength,
    TargetGap,
    check_strength,
    coupled_names,
    is_constant,
    shared_names,
    strengths_at,
)

__all__ = ["Coupling"]


class Coupling:
    """Models that train side by side, each on its own data, and are pulled together.

    Each model i minimizes its own loss plus a pull to the others, with a strength for each tensor:

        loss_i(w_i) + sum_l strength_l * sum_{j != i} ||w_i[l] - w_j[l]||^2

    At strength 0 a tensor is private, as in independent training. At infinity it is one tensor:
    the mean of the models' gradients moves it, as in a network with several heads on one trunk.
    Between, `pull` makes the joint proximal step of this objective after the optimizers have made
    theirs, which is stable at every strength, where the penalty in the loss diverges.

        coupling = Coupling({"a": (net_a, opt_a), "b": (net_b, opt_b)}, strength=1.0)
        for batch_a, batch_b in batches:
            ...                              # losses, backward, clipping: as ever
            coupling.share_gradients()       # does something where the strength is infinite
            opt_a.step(); opt_b.step()
            coupling.pull()                  # these three in one: coupling.step()

    Only parameters are coupled. Running statistics stay private: the data differ. `pull` counts the
    steps that the optimizers have really made, with their learning rates: a step that mixed
    precision skips pulls nothing, and pulls that come every k steps are k times as long. Copied or
    pickled in one with its models and optimizers, it couples their copies.

    Args:
        models: name -> (module, optimizer); two or more. Modules may be compiled. Optimizers are
            SGD, Adam or AdamW, each with its own settings.
        strength: a number, a table of patterns, `by_depth`, `over_time` or `target_gap`. Patterns
            are those of `conjoin.merge`; the first that matches counts; tensors that no pattern
            matches are private. Private tensors may differ in shape or exist in some models only.
        every: pull after so many steps.
        start: ``shared`` refuses models that do not start from the same weights where they are
            coupled; ``any`` takes them (where the strength is infinite, their mean).
        other_optimizers: ``learning rate`` takes other optimizers' bare learning rate for the
            effective step: it pulls, but what models agree on is no minimum of the coupled loss.
        rule: what a pull does; see `conjoin.coupling.presets`.
        rounds: with a center: steps after which coupled weights, and it, become their mean.

    Raises:
        InputError: something cannot be used as given.
        MismatchError: coupled tensors differ in name, shape or start.

    Source: the penalty is the question that conjoin began with; the joint step is forward-backward
    splitting (Combettes and Wajs, Multiscale Model. Simul. 4(4), 2005) with each optimizer's
    metric; infinity is hard parameter sharing (Caruana, Machine Learning 28, 1997).

    >>> nets = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    >>> nets[1].load_state_dict(nets[0].state_dict()) and None
    >>> opts = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    >>> coupling = Coupling({"a": (nets[0], opts[0]), "b": (nets[1], opts[1])}, strength=1.0)
    >>> for _ in range(200):          # (w - 1)^2 / 2 and (w + 1)^2 / 2
    ...     for net, target in zip(nets, (1.0, -1.0)):
    ...         net.zero_grad()
    ...         ((net.weight - target) ** 2 / 2).sum().backward()
    ...     coupling.step()
    >>> round(nets[0].weight.item(), 4), round(nets[1].weight.item(), 4)   # 1 / (1 + 4 * strength)
    (0.2, -0.2)
    """

    def __init__(
        self,
        models: Mapping[str, tuple[nn.Module, Optimizer]],
        strength: Strength,
        *,
        every: int = 1,
        start: Start = "shared",
        other_optimizers: OtherOptimizers = "refuse",
        rule: Rule = JOINT,
        rounds: int | None = None,
    ) -> None:
        check_strength(strength)
        check_options(every, start, rule, rounds)
        self._members = read_members(models)
        self._strength, self._rule, self._every, self._rounds = strength, rule, every, rounds
        for member in self._members:
            check_optimizer(member.optimizer, member.name, other_optimizers)
        self._time = 0
        self._adapted: dict[str, float] = {}
        self._tied: set[str] = set()
        self._shared_at, self._warned, self._idle = -1, False, IdlePulls()
        self._cached: tuple[int, dict[str, float]] | None = None
        coupled = coupled_names(strength, self._layers, self._tensor_names)
        check_coupled(self._members, coupled)
        check_shareable(self._members, shared_names(strength, self._layers, self._tensor_names))
        if start == "shared":
            check_start(self._members, coupled)
        own = self._members[0].parameters
        self._largest = max((own[name].numel() for name in coupled), default=0)
        kept = coupled if rule.center else ()
        self._center = {name: own[name].detach().clone() for name in kept}
        # After all checks: a coupling that is refused leaves nothing behind in the optimizers.
        self._counters = count_steps(self._members)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Of a copy: torch leaves the hooks of optimizers out when it copies.
        self.__dict__.update(state)
        self._counters = count_steps(self._members, self._counters)

    @property
    def time(self) -> int:
        """How many optimizer steps have been made, up to the last pull."""
        return self._time

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(member.name for member in self._members)

    def strengths(self) -> dict[str, float]:
        """Give the strength of each tensor at the step that comes next."""
        return dict(self._strengths_at(self._next))

    def _strengths_at(self, step: int) -> Mapping[str, float]:
        if self._cached is None or (self._cached[0] != step and not is_constant(self._strength)):
            layers, names = self._layers, self._tensor_names
            found = strengths_at(self._strength, step, layers, names, self._adapted)
            self._cached = (step, found)
        return self._cached[1]

    def share_gradients(self, scaler: Any = None) -> None:
        """Make the gradients of shared tensors (strength infinity) their mean over the models.

        To be called after backward and clipping, before the optimizers step. A model without a
        gradient counts as zero. Where a strength has become infinite, weights and optimizer
        states become their means first.

        Args:
            scaler: of mixed precision (`torch.amp.GradScaler`); if one model's gradients overflow,
                all models skip the step, as otherwise what is shared would not stay one tensor.

        Raises:
            InputError: the optimizers' settings of a shared tensor differ, so that it would not
                stay one.
        """
        check_scaler(scaler)
        for counter in self._counters:
            counter.look()
        shared = _infinite(self._strengths_at(self._next))
        if shared and scaler is not None:
            share_overflow(scaler, self._optimizers())
        for name in shared:
            parameters = [member.parameters[name] for member in self._members]
            optimizers = [member.optimizer for member in self._members]
            if name not in self._tied:
                tie(parameters, optimizers)
                self._tied.add(name)
            share_gradients(parameters)
        if shared:
            check_alike(self._members, shared)
        self._tied.intersection_update(shared)
        self._shared_at = self._next

    @torch.no_grad()
    def pull(self) -> None:
        """Pull the models together, after their optimizers have stepped.

        Raises:
            InputError: tensors are shared, and `share_gradients` was not called for this step; or
                they have drifted apart; or weights change, but none of the optimizers steps.
        """
        steps = max(counter.steps for counter in self._counters)
        if steps == 0:
            if not any(counter.called for counter in self._counters):
                self._idle.add(self._members)
            return
        self._idle.reset()
        made = self._next - 1  # the number of the step that was just made
        strengths = self._strengths_at(made)
        shared = _infinite(strengths)
        check_shared(self._members, shared, self._shared_at, made)
        self._tied.intersection_update(shared)
        if steps < self._every:
            return
        groups = [member.group_numbers() for member in self._members]
        for name, value in strengths.items():
            if 0 < value < math.inf:
                self._pull(name, value, groups)
        before, self._time = self._time, self._time + steps
        for counter in self._counters:
            counter.reset()
        if self._rounds is not None and self._time // self._rounds > before // self._rounds:
            for name, center in self._center.items():
                if strengths[name] > 0:
                    average([member.parameters[name].detach() for member in self._members], center)
        if isinstance(self._strength, TargetGap):
            self._adapt(self._strength, steps)

    def step(self, scaler: Any = None) -> None:
        """Share gradients, step all optimizers, and pull.

        Args:
            scaler: of mixed precision (`torch.amp.GradScaler`); its `update` is left to the caller.
        """
        self.share_gradients(scaler)
        for optimizer in self._optimizers():
            optimizer.step() if scaler is None else scaler.step(optimizer)
        self.pull()

    def penalty(self, name: str) -> Tensor:
        """Give the term of the thread for the loss of one model: the others are held fixed.

            sum_l strength_l * sum_{j != i} ||w_i[l] - w_j[l]||^2        (a scalar, float32)

        For couplings made with ``rule=PENALTY`` (`conjoin.coupling.thread_loss`); others pull, and
        both would be twice as strong. It is stable only up to a strength that falls with the
        learning rate, see `conjoin.coupling.stable_strength`; beyond, a `StabilityWarning` is given
        once. With Adam, which divides a gradient by its own size, the term's weight is lost.

        Raises:
            InputError: no such model; the coupling pulls; or a strength is infinite.
        """
        strengths = {name: value for name, value in self.strengths().items() if value > 0}
        check_penalty(name, self.names, self._rule, strengths)
        member = self._members[self.names.index(name)]
        if not self._warned:
            self._warned = warn_if_unstable(self._members, strengths)
        others = [other.parameters for other in self._members if other is not member]
        return penalty_of(member.parameters, others, strengths)

    def gap(self) -> dict[str, float]:
        """Give how far the models are apart, layer by layer, relative to their weights.

            gap_l = sqrt( mean_{i<j} ||w_i - w_j||^2 / mean_i ||w_i||^2 )

        0 for equal weights, sqrt(2) for unrelated ones of one size. Layers are those of
        `conjoin.measure.layers_of`, of the tensors that all models have in one shape, be they
        coupled or not.

        Raises:
            InputError: shared tensors (strength infinity) have drifted apart.
        """
        self._check_tied()
        return {
            layer.name: relative_gap([[m.parameters[n] for m in self._members] for n in names])
            for layer in self._layers
            if (names := [name for name in layer.tensors if name in self._common])
        }

    def merge(self, *data: Data, heads: bool = True) -> nn.Module:
        """Make one module out of the models.

        Where all tensors are coupled, this is one network: their mean, with BatchNorm statistics
        re-estimated on the data. Where some are private, it is a `conjoin.modules.MultiHead`, the
        coupled trunk merged once and a head for each model, if the private tensors are one part at
        the end of the network; else a `conjoin.modules.TaskNetworks`, in which each model keeps
        what is private, statistics too.

        Args:
            data: a loader of each model, in their order; see `reestimate_batchnorm`. Needed if
                there is BatchNorm, or to find out whether private tensors are at the end.
            heads: ``False`` averages private tensors too, into one network.

        Raises:
            InputError: data are needed; or shared tensors have drifted apart.
        """
        self._check_tied()
        private = [name for name, value in self.strengths().items() if value == 0]
        models = {m.name: m.module for m in self._members}
        return hand_over(models, private if heads else [], data)

    def state_dict(self) -> dict[str, Any]:
        """Give what is needed to go on exactly, beside the states of modules and optimizers.

        Raises:
            InputError: shared tensors (strength infinity) have drifted apart.
        """
        self._check_tied()
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "time": self._time,
            "counters": [{"steps": c.steps, "rates": dict(c.rates)} for c in self._counters],
            "adapted": dict(self._adapted),
            "tied": sorted(self._tied),
            "center": {name: tensor.clone() for name, tensor in self._center.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; those of modules and optimizers are loaded beside it.

        Raises:
            InputError: it is of another coupling, or of none.
        """
        check_state(state, self._state(), self._tensor_names)
        self._time = int(state["time"])
        self._adapted = dict(state["adapted"])
        self._tied = set(state["tied"])
        self._cached, self._shared_at, self._idle = None, -1, IdlePulls()
        for counter, stored in zip(self._counters, state["counters"], strict=True):
            counter.reset()
            counter.steps, counter.rates = int(stored["steps"]), dict(stored["rates"])
        with torch.no_grad():
            for name, tensor in self._center.items():
                tensor.copy_(state["center"][name])

    def __repr__(self) -> str:
        strengths = self.strengths()
        private, shared = sum(v == 0 for v in strengths.values()), len(_infinite(strengths))
        pulled = len(strengths) - private - shared
        counts = f"{pulled} tensors pulled, {private} private, {shared} shared"
        return f"Coupling({', '.join(self.names)}: {counts})"

    @cached_property
    def _layers(self) -> tuple[Any, ...]:
        return layers_of_members(self._members)

    @cached_property
    def _tensor_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for m in self._members for name in m.parameters))

    @cached_property
    def _common(self) -> frozenset[str]:
        return common_names(self._members)

    @property
    def _next(self) -> int:
        """Number of the optimizer step that comes next."""
        return self._time + max(counter.steps for counter in self._counters)

    def _optimizers(self) -> list[Optimizer]:
        return list({id(m.optimizer): m.optimizer for m in self._members}.values())

    def _pull(self, name: str, strength: float, groups: Sequence[Mapping[int, int]]) -> None:
        parameters = [member.parameters[name].detach() for member in self._members]
        steps = [EffectiveStep(0.0)] * len(parameters)
        if self._rule.steps:
            pairs = zip(self._counters, groups, strict=True)
            steps = [counter.effective(name, numbers) for counter, numbers in pairs]
        at_once = rows_of(self._largest, parameters[0].device)
        pull_tensor(self._rule, strength, parameters, steps, self._center.get(name), at_once)

    def _check_tied(self) -> None:
        """Raise an InputError if what is one tensor differs between models."""
        if not self._tied or len({counter.steps for counter in self._counters}) > 1:
            return  # nothing is, or this is the middle of a step
        names = [name for name in _infinite(self.strengths()) if name in self._tied]
        check_still_equal(self._members, names)

    def _adapt(self, target: TargetGap, steps: int) -> None:
        if self._time // target.every == (self._time - steps) // target.every:
            return
        for layer, gap in self.gap().items():
            ratio = (gap / target.gap) ** target.rate
            factor = self._adapted.get(layer, 1.0) * min(2.0, max(0.5, ratio))
            self._adapted[layer] = min(max(factor, 1e-12), 1e12)
        self._cached = None


def _infinite(strengths: Mapping[str, float]) -> list[str]:
    return [name for name, value in strengths.items() if math.isinf(value)]
