"""Orders that are learned: matched ones, improved by gradient steps on a few batches of data.

What is made small is the loss of the network halfway between the reference and the reordered model:
how far its outputs are from those of both. Each group has a shadow, a real matrix that begins at
its order, and that a relaxation turns into what the weights are reordered by:

    straight-through    the nearest permutation; its gradient is passed on as if it were the shadow
    sinkhorn            a doubly stochastic matrix; the nearest permutation is taken at the end

Now and then the orders that the shadows stand for are judged on batches that no step is computed
on. The best ones are kept, and the start where none was better.

Source: Ainsworth et al., Git Re-Basin, ICLR 2023, arXiv:2209.04836, 3.3 (straight-through; there
the shadow is of the weights); Pena et al., Re-basin via implicit Sinkhorn differentiation, CVPR
2023, arXiv:2212.12042.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn

from conjoin.alignment.between import LOSSES, Between, Example, Loss, examples_of
from conjoin.alignment.gains import assign, gain_of
from conjoin.alignment.soft import matrix_of, sinkhorn, straight_through
from conjoin.batches import Data, batches
from conjoin.data_statistics.watching import without_fast_path
from conjoin.errors import DataError, InputError, MismatchError, NonFiniteError
from conjoin.symmetry import Layout, Permutations

__all__ = ["RELAXATIONS", "Learned", "Relaxation", "learn"]


@dataclass(frozen=True)
class Relaxation:
    """How a shadow becomes what the weights are reordered by.

    Args:
        matrix: shadow [..., n, n] -> matrix.
        height: of the entries that the start takes, over the others.
        more: what is added to it for each unit of log n, so that wide groups begin as near to
            their order as narrow ones.
        prior: the largest likeness of weights in the first shadow, in units of the height. With 2,
            where the start and the weights disagree clearly, the weights are tried first; the start
            is judged in any case.
        rate: of Adam.
        coldest: what the shadow is divided by at the end; 1 at the beginning, exponential between.
        anywhere: whether the loss is that of a random point of the segment, not of its middle.
    """

    matrix: Callable[[Tensor], Tensor]
    height: float
    more: float
    prior: float
    rate: float
    coldest: float
    anywhere: bool


RELAXATIONS = {
    "straight-through": Relaxation(straight_through, 1.0, 0.0, 2.0, 0.01, 1.0, anywhere=False),
    "sinkhorn": Relaxation(sinkhorn, 2.0, 1.0, 2.0, 0.1, 0.1, anywhere=True),
}
"""A mixture of units can be good in the middle of the segment where no order is, since it leaves
little of the model beside the reference. At random points it is not; and in the cold, none is left.
"""

HELD = 4
"""One in so many batches is held out."""

CHECKS = 20
"""How often orders are judged."""

SMALLEST = 1e-12


@dataclass(frozen=True)
class Learned:
    """Orders, and whether learning has improved them.

    Args:
        permutations: what the model is to be reordered by.
        before: loss of the network halfway to the model in the order of the start, the mean over
            batches that were held out.
        after: the same with the result; never more.
        kept: whether the result is the start, since nothing better was found.
        checks: (steps done, loss on the batches held out) of all orders that were judged.
        relaxation: that was used.
        held_out: number of batches held out.
        learned_on: number of batches that steps were computed on.
        seconds: that it took.
    """

    permutations: Permutations
    before: float
    after: float
    kept: bool
    checks: tuple[tuple[int, float], ...]
    relaxation: str
    held_out: int
    learned_on: int
    seconds: float


@without_fast_path()  # its outputs where there is padding are not those that steps see
def learn(
    reference: nn.Module,
    model: nn.Module,
    layout: Layout,
    start: Permutations,
    data: Data,
    *,
    model_data: Data | None = None,
    relaxation: str = "straight-through",
    steps: int = 200,
    rate: float | None = None,
    loss: Loss = "mse",
    batch_size: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Learned:
    """Improve the order of a model's units by gradient steps.

    No labels are needed: the network between is to give what the reference and the model give on
    the same inputs. All groups take part. A group within another (the units of a head) has an order
    for each position in the result: a head that moves there gets it, not one of its own, so that
    heads are better matched by the start than by this.

    Args:
        reference, model: of one structure; not changed.
        layout: what may be reordered.
        start: orders to begin with, from matching.
        data: a few batches of inputs or ``(inputs, ...)``, or a pair of tensors; one in four of
            them is held out. They are kept in memory with the outputs of the models.
        model_data: where the model was trained on other data than the reference: those. What the
            network between gives is then compared with the reference on `data`, and with the model
            on these.
        relaxation: ``straight-through`` or ``sinkhorn``.
        steps: of Adam, on one batch each.
        rate: of learning; None for what has proved good.
        loss: ``mse``, the mean squared error of outputs; ``kl``, the KL divergence from the models'
            to that of the network between, for outputs [B, classes] that are logits; or a function
            of (outputs, batch) that gives a scalar, small where the outputs are good.
        batch_size: that a pair of tensors is cut into.
        seed: of the order of batches, and of the points of the segment.
        progress: called with (steps done, steps in all).

    Raises:
        InputError: an unknown relaxation or loss, no steps, outputs that a loss is not for, or
            inference mode.
        DataError: fewer than two batches, or of one example for BatchNorm.
        MismatchError: the models differ in structure, or the start is of another layout.
        NonFiniteError: the loss or its gradient is NaN or infinite.

    >>> from conjoin.symmetry import find_symmetries
    >>> _ = torch.manual_seed(0)
    >>> a = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> layout = find_symmetries(a, torch.randn(2, 4)).layout
    >>> order = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])             # two units are exchanged
    >>> wrong = Permutations(layout, {"0.weight:0": order})
    >>> data = [torch.randn(32, 4) for _ in range(4)]
    >>> found = learn(a, a, layout, wrong, data, steps=40)
    >>> found.permutations.is_identity(), found.before > found.after
    (True, True)
    """
    began = time.perf_counter()
    if torch.is_inference_mode_enabled():
        raise InputError("learning computes gradients: call it outside of torch.inference_mode()")
    found = _relaxation(relaxation, loss, steps)
    if start.layout != layout:
        raise MismatchError("the start is of a network of another structure than the layout")
    between = Between(reference, model, layout, loss)
    used, held = _examples((reference, model), data, model_data, loss, batch_size)
    generator = torch.Generator().manual_seed(seed)
    best, least = start, _judged(between, held, start)
    checks = [(0, least)]
    shadows = _shadows(between, start, found)
    for step in _steps(between, used, shadows, found, generator, steps, rate):
        if step % max(steps // CHECKS, 1) == 0 or step == steps:
            orders = Permutations(layout, {n: _nearest(shadow) for n, shadow in shadows.items()})
            value = _judged(between, held, orders)
            checks.append((step, value))
            if value < least - SMALLEST:  # not by roundings alone
                best, least = orders, value
        progress(step, steps)
    return Learned(
        best, checks[0][1], least, best is start, tuple(checks), relaxation, len(held), len(used),
        time.perf_counter() - began,
    )  # fmt: skip


def _steps(
    between: Between,
    examples: Sequence[Example],
    shadows: Mapping[str, Tensor],
    relaxation: Relaxation,
    generator: torch.Generator,
    steps: int,
    rate: float | None,
) -> Iterator[int]:
    """Change the shadows, step by step; give the number of steps done."""
    if not shadows:
        return  # nothing may be reordered
    optimizer = torch.optim.Adam(shadows.values(), lr=relaxation.rate if rate is None else rate)
    queue: list[int] = []
    for step in range(1, steps + 1):
        queue = queue or torch.randperm(len(examples), generator=generator).tolist()
        point = float(torch.rand((), generator=generator)) if relaxation.anywhere else 0.5
        temperature = relaxation.coldest ** ((step - 1) / steps)
        with torch.enable_grad():
            matrices = {n: relaxation.matrix(one / temperature) for n, one in shadows.items()}
            loss = between.loss_of(examples[queue.pop()], matrices, point)
            _check_finite(loss, f"the loss of step {step}")
            if not loss.requires_grad:
                raise InputError("the loss has no gradient; compute it from the outputs, in torch")
            optimizer.zero_grad()
            loss.backward()
        for name, shadow in shadows.items():
            _check_finite(shadow.grad, f"the gradient of {name!r} in step {step}")
        optimizer.step()
        yield step


def _relaxation(name: str, loss: Loss, steps: int) -> Relaxation:
    if name not in RELAXATIONS:
        raise InputError(f"relaxations are {', '.join(RELAXATIONS)}, not {name!r}")
    if isinstance(loss, str) and loss not in LOSSES:
        raise InputError(f"losses are {', '.join(LOSSES)} and your own function, not {loss!r}")
    if steps < 1:
        raise InputError(f"learning takes one step or more, not {steps}")
    return RELAXATIONS[name]


def _examples(
    models: Sequence[nn.Module], data: Data, own: Data | None, loss: Loss, batch_size: int
) -> tuple[list[Example], list[Example]]:
    """Give what steps are computed on, and what is held out."""
    given = list(batches(data, batch_size))
    others = None if own is None else list(batches(own, batch_size))
    for found in (given, others):
        if found is not None and len(found) < 2:
            raise DataError(
                f"the data have {len(found)} batches; two or more are needed, for one in {HELD} is "
                "held out. A loader can be used up: pass a list"
            )
    examples = examples_of(models, given, others, loss)
    held = set(range(len(examples) - 1, 0, -HELD))
    return (
        [one for number, one in enumerate(examples) if number not in held],
        [one for number, one in enumerate(examples) if number in held],
    )


def _shadows(between: Between, start: Permutations, relaxation: Relaxation) -> dict[str, Tensor]:
    """Give float32 [copies..., n, n] for each group, with the start as the nearest order."""
    groups, found = start.layout.groups, {}
    blocks = between.blocks()
    for name, order in start.orders.items():
        here = [block for block in blocks if name in block.names]
        gain = gain_of(groups[name], here, groups, start.orders).float()
        height = relaxation.height + relaxation.more * log(groups[name].size)
        size = gain.abs()
        # Like a cosine, so that units with small weights are not overlooked: at most 1.
        norms = (size.amax(-1, keepdim=True) * size.amax(-2, keepdim=True)).sqrt()
        alike = relaxation.prior * height * gain / norms.clamp_min(SMALLEST)
        shadow = height * matrix_of(order) + alike
        found[name] = shadow.to(between.device).requires_grad_()
    return found


def _nearest(shadow: Tensor) -> Tensor:
    return assign(shadow.detach().double().cpu())


def _judged(between: Between, held: Sequence[Example], orders: Permutations) -> float:
    """Give the mean loss in the middle of the segment over batches that were held out."""
    matrices = {name: matrix_of(order) for name, order in orders.orders.items()}
    with torch.no_grad():
        losses = [between.loss_of(example, matrices) for example in held]
    value = torch.stack(losses).mean()
    _check_finite(value, "the loss halfway, on the batches held out,")
    return float(value)


def _check_finite(value: Tensor | None, what: str) -> None:
    if value is not None and not bool(value.isfinite().all()):
        raise NonFiniteError(
            f"{what} is NaN or infinite; look for such numbers in the data and weights, or "
            "learn with a lower rate"
        )
