"""What alignment has changed, in sentences."""

import math
from collections.abc import Iterator

from conjoin.report.alignment import WAYS, both, judged, units_of, way
from conjoin.report.findings import Finding
from conjoin.report.formats import listing, number, percent
from conjoin.report.means import mean_of
from conjoin.report.run_folder import Run
from conjoin.report.view_means import groups_of, place

__all__ = ["alignment_findings"]

_SAID = dict(
    zip(WAYS, ("as they are", "repaired only", "aligned", "aligned and repaired"), strict=True)
)


def alignment_findings(run: Run) -> list[Finding]:
    """Say how well units were matched, and what is left of the barrier."""
    return [
        finding
        for group in groups_of(run, "alignment")
        for found in (_units(run, group), _barriers(run, group))
        for finding in found
    ]


def _units(run: Run, group: str) -> Iterator[Finding]:
    lines = [line for line in units_of(run, group) if line.before is not None]
    before = mean_of(line.before for line in lines if line.before is not None)
    after = mean_of(line.after for line in lines if line.after is not None)
    matched = mean_of(line.matched for line in lines if line.matched is not None)
    if not all(map(math.isfinite, (before, after, matched))):
        return
    yield Finding(
        _sentence(
            f"{place(run, 'alignment', group)}with the units of one network brought into the order "
            f"of the other's, units at one place correlate by {after:z.2f} instead of "
            f"{before:z.2f} on test data (mean over {len(lines)} groups of units); "
            f"{100 * matched:.0f} % are each other's best match"
        ),
        "explanation",
        "aligned-units",
    )


def _barriers(run: Run, group: str) -> Iterator[Finding]:
    records = [r for r in both(run, "barrier", "barrier") if str(r.how.get("group")) == group]
    # Tasks that are judged in two ways have no mean.
    metrics = {record.metric for record in judged(run, records, " barrier")}
    if len(metrics) != 1:
        return
    (metric,) = metrics
    values: dict[str, list[float]] = {name: [] for name in WAYS}
    for record in records:
        if record.metric == metric:
            values[way(record)].append(record.value)
    unit = " points" if percent(metric) else ""
    parts = [
        f"{number(mean_of(found), metric)}{unit} {_SAID[name]}"
        for name, found in values.items()
        if found
    ]
    verb = "falls below" if percent(metric) else "rises above"
    yield Finding(
        _sentence(
            f"{place(run, 'alignment', group)}on the way between the two networks, "
            f"{metric.removesuffix(' barrier')} {verb} the straight line by up to {listing(parts)} "
            "(the barrier, mean over tasks)"
        ),
        "explanation",
        "aligned-interpolation",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
