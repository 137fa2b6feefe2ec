"""The points of the continuum: a profile over the layers, times a strength."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from conjoin.coupling.strength import (
    ByDepth,
    OverTime,
    Strength,
    TargetGap,
    by_depth,
    over_time,
)
from conjoin.errors import InputError

__all__ = [
    "STRENGTHS",
    "Point",
    "Profile",
    "described",
    "find_profile",
    "points_of",
    "profile_info",
    "profiles_for",
]

STRENGTHS = (0.0, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, math.inf)
"""From independent training to one tensor for all."""

FALL = 100.0
"""How much weaker the last layer is coupled than the first in the profile ``upstream``."""

TIED = 0.8
"""From which part of the training on weights are one in the profile ``tied finish``."""


@dataclass(frozen=True)
class Profile:
    """How a strength is spread over layers and time.

    Args:
        name: shown.
        about: a sentence for people.
        at: (strength, optimizer steps of the training) -> what `Coupling` takes.
        pooled: whether BatchNorm normalizes by the mixture of all tasks' data; see
            `conjoin.coupling.pooled_normalization`.
        strengths: that it is trained at; None for those of the continuum.
    """

    name: str
    about: str
    at: Callable[[float, int], Strength]
    pooled: bool = False
    strengths: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Point:
    """One training of the continuum.

    Args:
        profile: how the strength is spread.
        strength: 0 to infinity.
    """

    profile: Profile
    strength: float

    @property
    def name(self) -> str:
        """Name of the point within a run.

        >>> Point(Profile("uniform", "", lambda s, steps: s), math.inf).name
        'uniform inf'
        """
        return f"{self.profile.name} {self.strength:g}"

    @property
    def pooled(self) -> bool:
        """Whether BatchNorm normalizes by the mixture: not where nothing is coupled."""
        return self.profile.pooled and self.strength > 0

    def at(self, steps: int) -> Strength:
        """Give what `Coupling` takes, for a training of so many steps; 0 couples nothing at all."""
        return 0.0 if self.strength == 0 else self.profile.at(self.strength, steps)


def profiles_for(heads: Sequence[str]) -> dict[str, Profile]:
    """Give the profiles by name.

    Args:
        heads: patterns of the parameters behind the trunk; without them there is no profile
            ``trunk``.
    """
    found = [
        Profile("uniform", "every layer with the same strength", _uniform),
        Profile(
            "upstream",
            f"falling from the first layer to the last, which has 1/{FALL:g} of it",
            _upstream,
        ),
    ]
    if heads:
        found.append(
            Profile(
                "trunk",
                "the trunk only; classifiers stay private",
                lambda strength, steps: {**dict.fromkeys(heads, 0.0), "*": strength},  # noqa: ARG005
            )
        )
    found.append(
        Profile(
            "tied finish",
            f"every layer with the same strength, one network in the last {1 - TIED:.0%} of steps",
            _tied_finish,
        )
    )
    found.append(
        Profile(
            "pooled norm",
            "every layer with the same strength; BatchNorm normalizes by the mixture of the tasks",
            _uniform,
            pooled=True,
        )
    )
    return {profile.name: profile for profile in found}


def find_profile(text: str, known: Mapping[str, Profile]) -> Profile:
    """Read a profile: its name, or ``NAME:STRENGTH,STRENGTH`` for strengths of its own.

    Raises:
        InputError: there is no such profile, or something is no number.

    >>> find_profile("upstream:0.1,inf", profiles_for([])).strengths
    (0.1, inf)
    """
    name, colon, numbers = text.partition(":")
    if name not in known:
        needs = "" if name != "trunk" else " without heads=[...], what is behind the trunk"
        raise InputError(f"no profile {name!r}{needs}; there are {', '.join(known)}")
    if not colon:
        return known[name]
    try:
        strengths = tuple(map(float, numbers.split(",")))
    except ValueError:
        raise InputError(
            f"strengths of a profile are numbers with commas between, such as {name}:0.1,1,inf, "
            f"not {text!r}"
        ) from None
    return replace(known[name], strengths=strengths)


def points_of(profiles: Sequence[Profile], strengths: Sequence[float]) -> tuple[Point, ...]:
    """Give every point once: at 0, profiles do not differ, and some do not at infinity either.

    Args:
        profiles: of the continuum.
        strengths: of each profile that has none of its own.

    Raises:
        InputError: no profile, no strength, or a strength that is none.

    >>> [point.name for point in points_of(list(profiles_for([]).values())[:2], [0, 1, math.inf])]
    ['uniform 0', 'uniform 1', 'uniform inf', 'upstream 1']
    """
    found: dict[str, Point] = {}
    for profile in profiles:
        chosen = strengths if profile.strengths is None else profile.strengths
        for strength in chosen:
            is_number = isinstance(strength, Real) and not isinstance(strength, bool)
            if not is_number or not float(strength) >= 0:
                raise InputError(f"a strength is a number from 0 to inf, not {strength!r}")
        for strength in sorted(set(map(float, chosen))):
            point = Point(profile, strength)
            found.setdefault(f"{described(point.at(1000))} {point.pooled}", point)
    if not found:
        raise InputError("a continuum needs at least one profile and one strength")
    return tuple(found.values())


def profile_info(profiles: Sequence[Profile]) -> tuple[dict[str, Any], ...]:
    """Give what a run says of its profiles: which of them are one at infinity, too.

    >>> [p["same_at_infinity"] for p in profile_info(list(profiles_for([]).values()))]
    [None, 'uniform', 'uniform', None]
    """
    ends: dict[str, str] = {}
    found = []
    for profile in profiles:
        end = f"{described(profile.at(math.inf, 1000))} {profile.pooled}"
        same = ends.setdefault(end, profile.name)
        info = {"name": profile.name, "about": profile.about}
        found.append({**info, "same_at_infinity": None if same == profile.name else same})
    return tuple(found)


def described(strength: Strength) -> Any:
    """Give a strength as JSON values, for the key of a stage; infinity as a word.

    >>> described({"a": math.inf, "*": 1.0})
    {'patterns': [['a', 'inf'], ['*', '1.0']]}
    """
    if isinstance(strength, Mapping):
        return {"patterns": [[name, repr(float(value))] for name, value in strength.items()]}
    if isinstance(strength, ByDepth):
        ends = [repr(strength.first), repr(strength.last)]
        return {"depth": ends, "decay": strength.decay, "private": list(strength.private)}
    if isinstance(strength, OverTime):
        points = [[step, described(value)] for step, value in strength.points]
        return {"time": points, "decay": strength.decay}
    if isinstance(strength, TargetGap):
        rest = [strength.rate, strength.every, strength.lowest, strength.highest]
        return {"gap": strength.gap, "initial": described(strength.initial), "rest": rest}
    return repr(float(strength))


def _uniform(strength: float, steps: int) -> Strength:  # noqa: ARG001
    return strength


def _upstream(strength: float, steps: int) -> Strength:  # noqa: ARG001
    return strength if math.isinf(strength) else by_depth(strength, strength / FALL)


def _tied_finish(strength: float, steps: int) -> Strength:
    if math.isinf(strength):
        return strength
    begin = max(1, round(TIED * steps))
    return over_time({0: strength, begin - 1: strength, begin: math.inf})
