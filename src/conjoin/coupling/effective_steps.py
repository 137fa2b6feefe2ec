"""How far an optimizer moves a weight for each unit of a gradient that stays.

The effective step D turns a pull on the weights into one on the loss: an optimizer that sees the
same gradient g for long moves by ``-D * g`` a step.

    SGD          D = lr * (1 - dampening) / (1 - momentum)     Nesterov the same
    Adam, AdamW  D = lr / (sqrt(v_hat) + eps)                  of each element; AMSGrad: the maximum

The bare learning rate is wrong by 1 / (1 - momentum): with momentum .9 a coupling would be ten
times too weak.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from conjoin.errors import InputError

__all__ = ["EffectiveStep", "OtherOptimizers", "check_optimizer", "effective_step", "step_rate"]

OtherOptimizers = Literal["refuse", "learning rate"]

_SGD, _ADAM = (SGD,), (Adam, AdamW)

SMALLEST_EPS = 1e-30
"""In the place of an eps of 0: where Adam has seen no gradient, D is lr / eps."""


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


def effective_step(
    optimizer: Optimizer, number: int, parameter: Tensor, rate: float
) -> EffectiveStep:
    """Give D of a parameter.

    Adam has no second moments of one that no gradient has reached; they are 0 then, as they are
    where all gradients were 0.

    Args:
        optimizer: that moves it.
        number: of its group.
        parameter: one of that group.
        rate: the sum of what `step_rate` gave, over the steps made.

    >>> weight = torch.zeros(1, requires_grad=True)
    >>> effective_step(SGD([weight], lr=0.1), 0, weight, 0.3).rate
    0.3
    """
    if type(optimizer) not in _ADAM or rate == 0:
        return EffectiveStep(rate)
    state, group = optimizer.state.get(parameter, {}), optimizer.param_groups[number]
    if "exp_avg_sq" not in state:
        return EffectiveStep(rate / max(float(group["eps"]), SMALLEST_EPS))
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return EffectiveStep(rate, second, _correction(group, state["step"]), group["eps"])


def step_rate(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """Give the learning rate of a group, for SGD times (1 - dampening) / (1 - momentum)."""
    rate = float(group["lr"])
    if type(optimizer) in _SGD and group["momentum"]:
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        if momentum >= 1:
            raise InputError(f"SGD with momentum {momentum} never settles; it must be less than 1")
        rate *= (1 - dampening) / (1 - momentum)
    return rate


def _correction(group: Mapping[str, Any], step: float | Tensor) -> float | Tensor:
    # Adam's count is a float32 tensor, in which 1 - .999 ** t is wrong by 1e-5, and where networks
    # meet with it. One on a GPU is not waited for.
    on_gpu = isinstance(step, Tensor) and step.is_cuda
    exact = cast(Tensor, step).double() if on_gpu else float(step)
    return cast(float | Tensor, 1 - group["betas"][1] ** exact)
