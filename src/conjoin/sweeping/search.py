"""Finding a good strength with few trainings, on validation data alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from conjoin.errors import InputError

__all__ = ["TRAININGS", "Found", "find_strength"]

TRAININGS = 5
"""How many trainings a search takes, unless told otherwise."""

WORST = -math.inf


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Args:
        strength: the best of those tried.
        tried: (strength, score) in the order of the trainings.
    """

    strength: float
    tried: tuple[tuple[float, float], ...]


def find_strength(
    score: Callable[[float], float],
    *,
    trainings: int = TRAININGS,
    start: float = 1.0,
    factor: float = 10.0,
    lowest: float = 1e-4,
    highest: float = 1e4,
) -> Found:
    """Find the strength with the best score, in `trainings` trainings at most.

    Scores rise and fall again with strength, as a rule: too weak, and the mean of the networks is
    none; too strong, and they cannot differ where they should. So: try `start` and a decade to
    either side; while the best is at an end, go on a decade further there; once it lies inside,
    halve the distances around it (in decades), the wider one first, then the more promising.

    Args:
        score: of a strength: trains, and measures on validation data. NaN counts as the worst.
        trainings: three or more.
        start, factor: the first strength tried, and the first distance.
        lowest, highest: bounds.

    Raises:
        InputError: `trainings` is less than 3, or the bounds do not contain the start.

    >>> found = find_strength(lambda s: -(math.log10(s) - 0.4) ** 2)
    >>> [round(strength, 3) for strength, _ in found.tried], round(found.strength, 3)
    ([1.0, 10.0, 0.1, 3.162, 1.778], 3.162)
    """
    if trainings < 3:
        raise InputError(f"a search needs 3 trainings or more, not {trainings}")
    if not 0 < lowest <= start / factor or not start * factor <= highest < math.inf:
        raise InputError("the search must have room for one step on either side of its start")
    scores: dict[float, float] = {}
    order: list[tuple[float, float]] = []

    def measure(place: float) -> None:
        strength = start * factor**place
        found = score(strength)
        scores[place] = WORST if math.isnan(found) else found
        order.append((strength, found))

    for place in (0.0, 1.0, -1.0):
        measure(place)
    while len(order) < trainings:
        place = _next_place(scores)
        if not lowest * 0.999 <= start * factor**place <= highest * 1.001:
            place = _inside(scores)
        measure(place)
    best = max(scores, key=lambda place: scores[place])
    return Found(start * factor**best, tuple(order))


def _next_place(scores: dict[float, float]) -> float:
    """Give where to look next, in units of the first distance."""
    places = sorted(scores)
    best = max(places, key=lambda place: scores[place])
    if best == places[-1]:
        return best + 1.0
    if best == places[0]:
        return best - 1.0
    return _inside(scores)


def _inside(scores: dict[float, float]) -> float:
    """Give the middle between the best place and a neighbour: wider gaps, then better ones."""
    places = sorted(scores)
    best = max(places, key=lambda place: scores[place])
    number = places.index(best)
    neighbours = [places[i] for i in (number - 1, number + 1) if 0 <= i < len(places)]
    other = max(neighbours, key=lambda place: (abs(place - best), scores[place]))
    return (best + other) / 2
