"""How far an optimizer moves a weight for each unit of a gradient that stays.

The effective step D turns a pull on the weights into one on the loss: an optimizer that sees the
same gradient g for long moves by ``-D * g`` a step.

    SGD          D = lr * (1 - dampening) / (1 - momentum)     Nesterov the same
    Adam, AdamW  D = lr / (sqrt(v_hat) + eps)                  of each element; AMSGrad: the maximum

The bare learning rate is wrong by 1 / (1 - momentum): with momentum .9 a coupling would be ten
times too weak.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from conjoin.errors import InputError

__all__ = ["EffectiveStep", "OtherOptimizers", "StepCounter", "check_optimizer", "count_steps"]

OtherOptimizers = Literal["refuse", "learning rate"]

_SGD, _ADAM = (SGD,), (Adam, AdamW)


def check_optimizer(optimizer: Optimizer, name: str, other: OtherOptimizers) -> None:
    """Raise an InputError if the effective step of an optimizer is not known."""
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"{name!r} needs (module, optimizer); the second is {type(optimizer).__name__}"
        )
    if other not in get_args(OtherOptimizers):
        known = " or ".join(map(repr, get_args(OtherOptimizers)))
        raise InputError(f"other_optimizers is {known}, not {other!r}")
    if type(optimizer) in (*_SGD, *_ADAM) or other == "learning rate":
        return
    raise InputError(
        f"{name!r} is trained by {type(optimizer).__name__}, of which conjoin does not know how "
        "far it moves a weight; it knows SGD, Adam and AdamW. With "
        'other_optimizers="learning rate" the bare learning rate is taken for it: networks are '
        "pulled together, but what they agree on is no minimum of the coupled loss"
    )


@dataclass(frozen=True)
class EffectiveStep:
    """D of one parameter: a number, or one for each element.

    Args:
        rate: the number; of Adam, the learning rate.
        second: Adam's second moments, of the parameter's shape; None for a number.
        correction: their bias correction ``1 - beta_2 ** t``.
        eps: of Adam.
    """

    rate: float
    second: Tensor | None = None
    correction: float | Tensor = 1.0
    eps: float | Tensor = 0.0

    def kept(
        self, factor: float, rows: slice | None, dtype: torch.dtype, device: torch.device
    ) -> float | Tensor:
        """Give ``1 / (1 + factor * D)`` for some rows of the parameter (None: all of it).

        Of Adam with the bias correction in the numbers instead of the moments: fewer passes.
        """
        if self.second is None:
            return 1.0 / (1.0 + factor * self.rate)
        second = self.second if rows is None else self.second[rows]
        root = torch.empty_like(second, dtype=dtype, device=device)
        rate = self.root(rows, root)
        return root.div_(root + factor * rate)

    def root(self, rows: slice | None, out: Tensor) -> float | Tensor:
        """Write the root of which Adam's ``D = rate / root`` is made into `out`; give the rate.

        Args:
            rows: of the parameter; None for all.
            out: of their shape.
        """
        second = cast(Tensor, self.second)
        second = (second if rows is None else second[rows]).to(out.device, out.dtype)
        scale = self.correction**0.5
        eps = self.eps * scale
        # Processors take four times as long for the square root of 0, of which weights without a
        # gradient have many. This floor changes the sum with eps by less than 1e-6.
        floor = (eps * 8 * torch.finfo(out.dtype).eps) ** 2
        torch.clamp(second, min=floor, out=out).sqrt_().add_(eps)
        return self.rate * scale

    @property
    def numbers(self) -> tuple[float | Tensor, ...]:
        """All of it but the second moments."""
        return self.rate, self.correction, self.eps

    @property
    def elementwise(self) -> bool:
        """Whether D is a tensor, and all else of it numbers that nobody has to wait for."""
        return self.second is not None and not any(isinstance(n, Tensor) for n in self.numbers)


@dataclass
class StepCounter:
    """Counts the steps of an optimizer, and adds up how long they were, from pull to pull.

    A step that mixed precision skips, because a gradient overflowed, does not count: unfused
    optimizers are not called then, and fused ones carry the mark ``found_inf`` while they are.

    Args:
        steps: made since the last pull.
        rates: by number of the parameter group: the sum over these steps of the learning rate,
            for SGD with its factor (1 - dampening) / (1 - momentum).
    """

    steps: int = 0
    rates: dict[int, float] = field(default_factory=dict)

    def count(self, optimizer: Optimizer) -> None:
        """Count a step, after it."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return
        self.steps += 1
        for number, group in enumerate(optimizer.param_groups):
            self.rates[number] = self.rates.get(number, 0.0) + _rate(optimizer, group)

    def reset(self) -> None:
        """Begin anew, after a pull."""
        self.steps = 0
        self.rates = {}

    def effective(self, optimizer: Optimizer, number: int, parameter: Tensor) -> EffectiveStep:
        """Give D of a parameter for the steps counted; 0 for one that has never been moved.

        Args:
            optimizer: the one that is counted.
            number: of the parameter's group.
            parameter: one of that group.
        """
        rate = self.rates.get(number, 0.0)
        if type(optimizer) not in _ADAM or rate == 0:
            return EffectiveStep(rate)
        state, group = optimizer.state.get(parameter, {}), optimizer.param_groups[number]
        if "exp_avg_sq" not in state:
            return EffectiveStep(0.0)
        second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
        return EffectiveStep(rate, second, _correction(group, state["step"]), group["eps"])


def count_steps(
    optimizers: Sequence[Optimizer], counted: Sequence[StepCounter] = ()
) -> dict[int, StepCounter]:
    """Give a counter of each optimizer, by its `id`; it counts for as long as somebody holds it.

    Args:
        optimizers: whose steps are counted from now on.
        counted: what each has made so far; nothing, if it is left out.

    >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> counters = count_steps([optimizer])
    >>> optimizer.step()
    >>> counters[id(optimizer)].steps
    1
    """
    before = counted or [StepCounter()] * len(optimizers)
    counters = {}
    for optimizer, counter in zip(optimizers, before, strict=True):
        own = StepCounter(counter.steps, dict(counter.rates))
        _hook(optimizer, own)
        counters[id(optimizer)] = own
    return counters


def _hook(optimizer: Optimizer, counter: StepCounter) -> None:
    """Let an optimizer call a counter after each step; the hook goes when the counter does."""
    # By a weak reference: the optimizer may be used long after what it was coupled by.
    counter_of = weakref.ref(counter)

    def count(optimizer: Optimizer, *_: Any) -> None:
        if (counter := counter_of()) is not None:
            counter.count(optimizer)

    handle = optimizer.register_step_post_hook(count)
    weakref.finalize(counter, handle.remove).atexit = False


def _correction(group: Mapping[str, Any], step: float | Tensor) -> float | Tensor:
    # Adam's count is a float32 tensor, in which 1 - .999 ** t is wrong by 1e-5, and where networks
    # meet with it. One on a GPU is not waited for.
    on_gpu = isinstance(step, Tensor) and step.is_cuda
    exact = cast(Tensor, step).double() if on_gpu else float(step)
    return cast(float | Tensor, 1 - group["betas"][1] ** exact)


def _rate(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    rate = float(group["lr"])
    if type(optimizer) in _SGD and group["momentum"]:
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        if momentum >= 1:
            raise InputError(f"SGD with momentum {momentum} never settles; it must be less than 1")
        rate *= (1 - dampening) / (1 - momentum)
    return rate
