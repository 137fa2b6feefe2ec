"""The continuum of the digit networks: which points are trained, and their references."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from conjoin.comparison.continuum import HEADS, SPECIALISTS, validation_score
from conjoin.comparison.measuring import Laboratory
from conjoin.comparison.subject import Continuum, CoupledPoint, Network
from conjoin.errors import InputError
from conjoin.experiments.digits.trainings import Trainer
from conjoin.stages import Stage
from conjoin.sweeping import (
    Point,
    Profile,
    find_profile,
    find_strength,
    points_of,
    profile_info,
    profiles_for,
)

__all__ = ["PROFILES", "Chosen", "Sweep", "continuum_of", "coupled_point", "search", "sweep_of"]

PROFILES: Mapping[str, Profile] = profiles_for(["classifier.*"])

TWO_HEADED = Point(PROFILES["trunk"], math.inf)

Chosen = Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What is trained of the continuum.

    Args:
        profiles: by name, in the order shown.
        strengths: of each profile.
        search: the profile to search a strength for; None does not search.
    """

    profiles: tuple[Profile, ...]
    strengths: tuple[float, ...]
    search: Profile | None = None

    @property
    def independent(self) -> Point:
        """The end at which nothing is coupled; profiles do not differ there."""
        return Point(self.profiles[0], 0.0)

    def points(self, chosen: Chosen | None) -> tuple[Point, ...]:
        """Give the points to train: the ends, and what a search has tried, belong to all."""
        found = {point.name: point for point in points_of(self.profiles, self.strengths)}
        found = {self.independent.name: self.independent, **found}
        if chosen is not None:
            profile = PROFILES[chosen["profile"]]
            for one in chosen["tried"]:
                point = Point(profile, float(one["exact"]))
                found.setdefault(point.name, point)
        return tuple({**found, TWO_HEADED.name: TWO_HEADED}.values())


def sweep_of(
    *,
    continuum: bool,
    strength: str | None,
    profiles: Sequence[str],
    strengths: Sequence[float],
) -> Sweep | None:
    """Read what a user wants to be trained; None for nothing.

    Args:
        continuum: whether all strengths are wanted.
        strength: a number, ``inf``, or ``auto``.
        profiles: names, each with strengths of its own or without: ``upstream:0.1,1``.
        strengths: of the whole continuum, for profiles that have none of their own.

    Raises:
        InputError: no such profile, or no strength.
    """
    chosen = tuple(find_profile(text, PROFILES) for text in profiles)
    if strength is None and not continuum:
        return None
    wanted = tuple(strengths) if continuum else (0.0, math.inf)
    if strength == "auto":
        return Sweep(chosen, wanted, chosen[0])
    if strength is not None:
        wanted = (*wanted, _number(strength))
    return Sweep(chosen, wanted)


def search(
    lab: Laboratory, trainer: Trainer, profile: Profile, notice: Callable[[str], None]
) -> Chosen:
    """Find a strength on the validation data of one seed, with few trainings."""

    def score(strength: float) -> float:
        point = Point(profile, strength)
        found = validation_score(lab, coupled_point(trainer, point))
        notice(f"strength {strength:.3g}: {found:.2f} on validation data (one network)")
        return found

    found = find_strength(score)
    tried = [
        {"profile": profile.name, "strength": f"{s:g}", "score": value, "exact": repr(s)}
        for s, value in found.tried
    ]
    best = {"profile": profile.name, "strength": f"{found.strength:g}"}
    return {**best, "trainings": len(tried), "tried": tried}


def continuum_of(
    trainer: Trainer, sweep: Sweep, chosen: Chosen | None, all_data: str | None
) -> Continuum:
    """Give all that is measured of the continuum for a seed.

    Args:
        trainer: trains the networks when they are asked for.
        sweep: what is trained.
        chosen: what a search has found.
        all_data: key of the row of the network on all data.
    """
    points = tuple(coupled_point(trainer, point) for point in sweep.points(chosen))
    shown = None
    if chosen is not None:
        tried = [{k: v for k, v in one.items() if k != "exact"} for one in chosen["tried"]]
        shown = {**chosen, "tried": tried}
    references = {
        "independent": f"{sweep.independent.name}: {SPECIALISTS}",
        "two-headed": f"{TWO_HEADED.name}: {HEADS}",
        "all data": all_data,
    }
    return Continuum(points, profile_info(sweep.profiles), references, shown)


def coupled_point(trainer: Trainer, point: Point) -> CoupledPoint:
    """Give the pair of networks of a point; they are trained when they are asked for."""
    names = [task.name for task in trainer.tasks[:2]]
    networks = {
        name: Network(
            name,
            Stage("coupled-one", 1, {"task": task}, {"of": trainer.coupled_stage(point)}),
            partial(_loaded, trainer, point, task),
        )
        for task, name in enumerate(names)
    }
    return CoupledPoint(
        point.profile.name,
        f"{point.strength:g}",
        networks,
        dict(zip(names, names, strict=True)),
        partial(trainer.coupled_gaps, point),
        heads=("classifier.*",),
    )


def _loaded(trainer: Trainer, point: Point, task: int) -> nn.Module:
    network = trainer.coupled_network(point, task).to(trainer.device)
    # The convolutions' weights in the order of memory that runs faster.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise InputError(f"a strength is a number from 0 to inf, or auto, not {text!r}")
    return value
