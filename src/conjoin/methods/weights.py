"""One weight per model: what every weighted method checks, and sums with them."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from conjoin.errors import MethodError

__all__ = ["added_up", "check_no_part_cancels", "checked_weights", "shares_of"]

# Weights whose sum is below this part of the sum of their magnitudes cancel: dividing by it would
# give roundings, or minus infinity.
_CANCELS = 1e-9
# For sums of weights that are formed in float32, for each element.
_CANCELS_IN_FLOAT32 = 1e-6
# All sums of a part of so many weights of both signs are looked at: 65,535.
_MOST = 16


def checked_weights(weights: Sequence[float], count: int, method: str) -> list[float]:
    """Give the weights as floats.

    Raises:
        MethodError: another number of weights than `count`, or NaN or infinity.
    """
    if len(weights) != count:
        raise MethodError(f"{method} needs one weight per model: {count}, not {len(weights)}")
    if not all(map(math.isfinite, weights)):
        raise MethodError(f"the weights must be finite numbers, not {list(weights)}")
    return [float(weight) for weight in weights]


def shares_of(weights: Sequence[float], count: int, method: str, *, normalize: bool) -> list[float]:
    """Give the weights, divided by their sum if `normalize`.

    Raises:
        MethodError: as `checked_weights`, or they sum to zero (or nearly) under normalization.

    >>> shares_of([3, 1], 2, "linear", normalize=True)
    [0.75, 0.25]
    """
    checked = checked_weights(weights, count, method)
    if not normalize:
        return checked
    total = math.fsum(checked)
    if abs(total) <= _CANCELS * math.fsum(map(abs, checked)):
        raise MethodError(
            f"the weights {list(weights)} sum to zero, so they cannot be normalized; "
            "set the parameter normalize to false, or change them"
        )
    return [weight * (1.0 / total) for weight in checked]


def check_no_part_cancels(weights: Sequence[float], method: str) -> None:
    """Raise if some of the weights sum to zero, where each element divides by the sum of some.

    Raises:
        MethodError: they do; or there are more than 16 of both signs, so that this is not known.
    """
    used = [weight for weight in weights if weight]
    if all(weight > 0 for weight in used) or all(weight < 0 for weight in used):
        return
    what = f"{method} with merge='weighted' divides by sums of some of the weights {list(weights)}"
    do = "use merge='mean' or 'sum', or weights of one sign"
    if len(used) > _MOST:
        raise MethodError(f"{what}, which are too many of both signs to check; {do}")
    for total, size in _sums_of_parts(used):
        if abs(total) <= _CANCELS_IN_FLOAT32 * size:
            raise MethodError(f"{what}, and some of them sum to zero; {do}")


def _sums_of_parts(weights: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Give the sum, and the sum of magnitudes, of every part with at least one weight."""
    sums = [(0.0, 0.0)]
    for weight in weights:
        added = [(total + weight, size + abs(weight)) for total, size in sums]
        yield from added
        sums += added


def added_up(changes: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Give ``sum_i f_i d_i`` in the place of the first change, which is used up.

    >>> import torch
    >>> added_up([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.0])], [2.0, 0.5])
    tensor([7., 4.])
    """
    total = changes[0].mul_(factors[0])
    for change, factor in zip(changes[1:], factors[1:], strict=True):
        total.add_(change, alpha=factor)
    return total
