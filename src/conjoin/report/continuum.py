"""The continuum of a run: what was measured at which profile and strength of coupling.

A point is a profile and a strength. At strength 0 every profile is the same point, which is
recorded once, and at infinity some profiles are the same; the curve of a profile takes them over.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from conjoin.records import Record, Split
from conjoin.report.run_folder import ContinuumInfo, Run

__all__ = [
    "WHATS",
    "Continuum",
    "Point",
    "What",
    "continuum_of",
    "curve",
    "point_of",
    "reference_values",
    "strength_label",
    "strengths_of",
    "what_of",
]

What = Literal["one network", "heads", "specialists"]
"""What a point gives: the mean of the coupled networks; the mean of their trunks, with the
classifier and the statistics of each; the networks themselves."""

WHATS: tuple[What, ...] = get_args(What)

Seeds = Mapping[int, float]
"""Seed -> value."""


class Point(NamedTuple):
    """A training of the continuum.

    Args:
        profile: its name.
        strength: as it is written, ``"0.1"`` or ``"inf"``.
    """

    profile: str
    strength: str


@dataclass(frozen=True)
class Continuum:
    """What was measured along the continuum of a run.

    Args:
        info: profiles, strengths, what was chosen, references.
        strengths: those that are listed or were measured, ascending.
        models: what `model` of an interval is called, for a point and what it gives.
        told: what is told the task at test time.
        values: (point, what, task, metric, split) -> value of each seed.
    """

    info: ContinuumInfo
    strengths: tuple[str, ...]
    models: Mapping[tuple[Point, What], str]
    told: Set[What]
    values: Mapping[tuple[Point, What, str, str, Split], Seeds]

    def at(
        self, point: Point | None, what: What, task: str, metric: str, split: Split = "test"
    ) -> Seeds:
        """Give the value of each seed; none where nothing was measured."""
        return self.values.get((point, what, task, metric, split), {}) if point else {}

    def curve(self, profile: str) -> dict[str, Point]:
        """Give strength -> point of a profile, ascending; see `curve`."""
        return curve(self.info, self.strengths, {point for point, _ in self.models}, profile)

    def chosen(self) -> Point | None:
        """Give the point that was chosen, as it is recorded; None if none was, or it is missing."""
        found = self.info.chosen
        return self.curve(found.profile).get(found.strength) if found else None

    def independent(self) -> Point | None:
        """Give the point of strength 0; None if it was not measured."""
        points = (p for profile in self.info.profiles for p in self.curve(profile.name).values())
        return next((point for point in points if float(point.strength) == 0), None)


def continuum_of(run: Run) -> Continuum | None:
    """Collect the records of the continuum; None if the run has none.

    Records of a task, profile or kind of network that the run does not list are passed over.
    """
    info = run.info.continuum
    if info is None:
        return None
    models: dict[tuple[Point, What], str] = {}
    values: dict[tuple[Point, What, str, str, Split], dict[int, float]] = {}
    told: set[What] = set()
    for record in run.view("continuum"):
        point, what = point_of(info, record), _what(record.how.get("what"))
        if point is None or what is None or record.task not in run.tasks:
            continue
        models.setdefault((point, what), record.model)
        if record.how.get("uses_task_label"):
            told.add(what)
        key = (point, what, record.task, record.metric, record.split)
        values.setdefault(key, {})[record.seed] = record.value
    if not values:
        return None
    return Continuum(info, strengths_of(info, (p for p, _ in models)), models, told, values)


def point_of(info: ContinuumInfo, record: Record) -> Point | None:
    """Give the point of a record; None if its profile is not listed or its strength is none."""
    profile, strength = record.how.get("profile"), record.how.get("strength")
    if not isinstance(strength, str) or profile not in {p.name for p in info.profiles}:
        return None
    try:
        return Point(str(profile), strength) if float(strength) >= 0 else None
    except ValueError:
        return None


def strengths_of(info: ContinuumInfo, points: Iterable[Point]) -> tuple[str, ...]:
    """Give the strengths that are listed, and those of the points, ascending and once each.

    >>> info = ContinuumInfo(profiles=[], strengths=["inf", "0.1"])
    >>> strengths_of(info, [Point("uniform", "0.03"), Point("uniform", "0.1")])
    ('0.03', '0.1', 'inf')
    """
    found = dict.fromkeys([*info.strengths, *(point.strength for point in points)])
    return tuple(sorted(found, key=float))


def curve(
    info: ContinuumInfo, strengths: Iterable[str], measured: Set[Point], profile: str
) -> dict[str, Point]:
    """Give strength -> point of a profile, with the points that it shares with other profiles.

    Args:
        info: the profiles, and which are the same at infinity.
        strengths: in the order of the result.
        measured: the points that there are.
        profile: its name.

    >>> from conjoin.report.run_folder import ProfileInfo
    >>> profiles = [ProfileInfo(name="a"), ProfileInfo(name="b", same_at_infinity="a")]
    >>> info = ContinuumInfo(profiles=profiles, strengths=["0", "1", "inf"])
    >>> measured = {Point("a", "0"), Point("a", "inf"), Point("a", "1")}
    >>> curve(info, info.strengths, measured, "b")
    {'0': Point(profile='a', strength='0'), 'inf': Point(profile='a', strength='inf')}
    """
    found = {}
    for strength in strengths:
        owners = [profile]
        if float(strength) == 0:
            owners += [other.name for other in info.profiles]
        elif float(strength) == float("inf"):
            owners = _same_at_infinity(info, profile)
        points = (Point(owner, strength) for owner in owners)
        point = next((point for point in points if point in measured), None)
        if point is not None:
            found[strength] = point
    return found


def reference_values(run: Run, key: str, task: str) -> dict[int, float]:
    """Give the value of each seed on a task's test part, of a point or of a row of the table."""
    metric = run.tasks[task].metric
    return {
        record.seed: record.value
        for view in ("continuum", "row")
        for record in run.view(view)
        if (record.model, record.task, record.metric, record.split) == (key, task, metric, "test")
    }


def what_of(run: Run, key: str) -> What:
    """Say what a reference is, which may be of a profile that the run does not list."""
    for record in run.view("continuum"):
        what = _what(record.how.get("what"))
        if record.model == key and what is not None:
            return what
    row = run.rows.get(key)
    return "heads" if row is not None and row.uses_task_label else "one network"


def strength_label(strength: str) -> str:
    """Write a strength; the two ends are said in words too.

    >>> strength_label("0"), strength_label("0.1"), strength_label("inf")
    ('0 (independent)', '0.1', 'inf (one tensor)')
    """
    ends = {0.0: " (independent)", float("inf"): " (one tensor)"}
    return f"{strength}{ends.get(float(strength), '')}"


def _same_at_infinity(info: ContinuumInfo, profile: str) -> list[str]:
    others: Mapping[str, str | None] = {p.name: p.same_at_infinity for p in info.profiles}
    found, following = [profile], others.get(profile)
    while following is not None and following not in found:
        found.append(following)
        following = others.get(following)
    return found


def _what(value: Any) -> What | None:
    return next((what for what in WHATS if what == value), None)
