"""Proof by running: a random reordering of a network must not change what it computes."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conjoin.batches import Inputs, device_of, map_inputs, run_model, size_of
from conjoin.errors import InputError
from conjoin.symmetry.copies import fresh_copy
from conjoin.symmetry.groups import Layout
from conjoin.symmetry.permutations import Permutations

__all__ = [
    "InDouble",
    "Proof",
    "double_by_default",
    "largest_error",
    "prove",
    "random_orders",
    "randomized",
]

TOLERANCE = 1e-9
"""Largest error of the outputs, relative to their size, in float64."""

SMALLER = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Proof:
    """What running has shown.

    Args:
        error: largest difference of the outputs relative to their largest, all proven groups
            reordered at once.
        guilty: groups that change the outputs, which are errors of a rule.
    """

    error: float
    guilty: tuple[str, ...]


def prove(model: nn.Module, layout: Layout, inputs: Inputs, *, seed: int = 0) -> Proof:
    """Reorder everything at once and compare the outputs; find the guilty by halving.

    Args:
        model: not changed. A copy in float64 is run, with random numbers in the place of weights
            that are all equal, such as zeros, and of running statistics: they would hide an error.
        layout: groups to prove.
        inputs: an example batch; two batches of other sizes are run.
        seed: of the random numbers.

    Raises:
        InputError: the model does not run in float64, or gives other outputs each time.
    """
    cpu, own = torch.device("cpu"), device_of(model)
    try:
        return _proof_on(cpu, model, layout, inputs, seed)
    except InputError:
        if own is None or own.type in ("cpu", "mps"):  # MPS has no float64
            raise
    return _proof_on(own, model, layout, inputs, seed)  # its forward may name its device


def _proof_on(
    device: torch.device, model: nn.Module, layout: Layout, inputs: Inputs, seed: int
) -> Proof:
    generator = torch.Generator().manual_seed(seed)
    example = randomized(model, generator).to(device)
    ran = copy.deepcopy(example)  # what it keeps of a run must not get into the reordered copies
    batches, expected = _expected(ran, _batches(inputs, layout, generator))
    if largest_error(_run(ran, batches[0]), expected[0]) > TOLERANCE:
        raise InputError(
            f"{type(model).__name__} gives other or no finite outputs when it is run again on the "
            "same inputs in eval mode, so that nothing can be proved; switch off what is random "
            "in it (such as a dropout that does not ask for `self.training`)"
        )
    del ran
    orders = random_orders(layout, generator)

    def error(names: Sequence[str]) -> float:
        chosen = Permutations(layout, {name: orders[name] for name in names})
        changed = chosen.apply(example)
        found = [_run(changed, batch) for batch in batches]
        return max(map(largest_error, found, expected), default=0.0)

    names = list(layout.groups)
    whole = error(names) if names else 0.0
    if whole <= TOLERANCE:
        return Proof(whole, ())
    guilty = _guilty(names, error)
    rest = [name for name in names if name not in guilty]
    return Proof(error(rest) if rest else 0.0, tuple(guilty))


def _guilty(names: Sequence[str], error: Callable[[Sequence[str]], float]) -> list[str]:
    if error(names) <= TOLERANCE:
        return []
    if len(names) == 1:
        return list(names)
    half = len(names) // 2
    found = [*_guilty(names[:half], error), *_guilty(names[half:], error)]
    return found or list(names)  # none alone, but both halves together


def random_orders(layout: Layout, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw an order for every group, none of which leaves everything in its place."""
    orders = {}
    for name, group in layout.groups.items():
        shape = (*group.copies, group.size)
        order = torch.rand(shape, generator=generator).argsort(-1)
        if torch.equal(order, torch.arange(group.size).expand(shape)):
            order = order.roll(1, -1)
        orders[name] = order
    return orders


@torch.no_grad()
def randomized(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a copy in float64 and eval mode in which no weight or statistic is constant."""
    example = fresh_copy(model).cpu().double().eval()
    for parameter in example.parameters():
        if (
            parameter.numel()
            and parameter.is_floating_point()
            and bool((parameter == parameter.flatten()[0]).all())
        ):
            parameter.add_(0.5 * _randn(parameter, generator))
    for part in example.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.copy_(_randn(buffer, generator))
            elif name == "running_var":
                buffer.copy_(_randn(buffer, generator).abs() + 0.5)
    return example  # fmt: skip


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Give the largest difference, relative to the largest expected number.

    Infinite, if something that is no finite number differs, or if nothing finite is left.
    """
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if not other.numel():
            continue
        if not (other.is_floating_point() or other.is_complex()):
            worst = max(worst, 0.0 if torch.equal(one, other) else float("inf"))
            continue
        finite = other.isfinite()
        same = torch.equal(one.isfinite(), finite)
        if not same or not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
            return float("inf")
        if not bool(finite.any()):
            return float("inf")  # it would be equal, whatever is reordered
        scale = float(other[finite].abs().max()) or 1.0
        worst = max(worst, float((one - other)[finite].abs().max()) / scale)
    return worst


def _randn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")


def _batches(inputs: Inputs, layout: Layout, generator: torch.Generator) -> list[Inputs]:
    """Give batches of random examples: two whose sizes are no number of channels, the example's."""
    sizes = {group.size for group in layout.groups.values()}
    free = [size for size in range(2, 64) if size not in sizes][:2] or [2, 3]
    batches = []
    for size in (*free, size_of(inputs)):

        def drawn(tensor: Tensor, size: int = size) -> Tensor:
            rows = torch.arange(size) % len(tensor)
            example = tensor.detach().cpu()[rows]
            if not example.is_floating_point():
                return example
            return example.double() + 0.5 * _randn(example, generator)

        batches.append(map_inputs(inputs, drawn))
    return batches


def _expected(
    model: nn.Module, batches: Sequence[Inputs]
) -> tuple[list[Inputs], list[list[Tensor]]]:
    """Run a model on all batches but the last; on that one if it takes no other size."""
    found: list[tuple[Inputs, list[Tensor]]] = []
    reason: Exception | None = None
    for number, batch in enumerate(batches):
        if found and number == len(batches) - 1:
            break
        try:
            found.append((batch, _run(model, batch)))
        except Exception as error:
            reason = error
    if not found:
        raise InputError(
            f"{type(model).__name__} does not run in float64, in which its symmetries are proved: "
            f"{reason}. Make tensors in its forward of the dtype of their inputs"
        ) from reason
    return [batch for batch, _ in found], [outputs for _, outputs in found]


@contextmanager
def double_by_default() -> Iterator[None]:
    """Let a forward that makes tensors without naming a dtype make them in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class InDouble(TorchDispatchMode):
    """Let a forward that rounds to a smaller dtype on its way (many norms do) keep float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if named.get("dtype") in SMALLER:
            named["dtype"] = torch.float64
        return func(*args, **named)


@torch.no_grad()
def _run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with double_by_default(), InDouble():  # type: ignore[no-untyped-call]
        outputs: Any = run_model(model, inputs)
    leaves = _pytree.tree_leaves(outputs if not isinstance(outputs, Mapping) else dict(outputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
