"""Variants of a chart for each setting of switches, from records."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from conjoin.records import Record
from conjoin.report.charts.figure import Figure, Switch, Variant
from conjoin.report.charts.points import in_order, unique
from conjoin.report.run_folder import Run
from conjoin.report.table import title_of

__all__ = ["REESTIMATED", "make_figure", "pair_labels", "reestimated", "task_of"]

REESTIMATED = ("as merged", "statistics re-estimated")


def reestimated(record: Record) -> str:
    """Say whether the BatchNorm statistics of a record's network were re-estimated."""
    return REESTIMATED[bool(record.how.get("reestimated"))]


def task_of(record: Record) -> str:
    """Give the task of a record."""
    return record.task


def pair_labels(run: Run, records: Iterable[Record]) -> dict[str, str]:
    """Name the pairs of networks (`model` of a record) of interpolation and distances.

    What does not tell them apart is left out: the group if there is one, the pair if each group
    has one.
    """
    group_of = {record.model: str(record.how.get("group")) for record in records}
    groups = set(group_of.values())
    found = []
    for model, group in group_of.items():
        title, pair = title_of(run, group), model.removeprefix(f"{group}: ")
        if len(groups) == 1:
            found.append(pair)
        else:
            found.append(title if len(groups) == len(group_of) else f"{title}: {pair}")
    return dict(zip(group_of, unique(found), strict=True))


def make_figure(
    key: str,
    title: str,
    caption: str,
    records: Iterable[Record],
    choices: Mapping[str, Callable[[Record], str]],
    make: Callable[[Sequence[Record]], Variant | None],
) -> Figure | None:
    """Make a figure with a variant for each setting that has records.

    Args:
        key, title, caption: as in `Figure`.
        records: all that the figure shows.
        choices: name of a switch -> what a record says there. A switch with one option is left out.
        make: gives the variant of the records of one setting, or None if they cannot be drawn.
    """
    cells: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(tuple(choice(record) for choice in choices.values()), []).append(record)
    made = {setting: make(found) for setting, found in cells.items()}
    variants = {setting: variant for setting, variant in made.items() if variant is not None}
    if not variants:
        return None
    options = [in_order(setting[i] for setting in variants) for i in range(len(choices))]
    kept = [i for i, found in enumerate(options) if len(found) > 1]
    labels = [dict(zip(found, unique(found), strict=True)) for found in options]
    switches = tuple(Switch(list(choices)[i], tuple(labels[i].values())) for i in kept)
    return Figure(
        key,
        title,
        caption,
        switches,
        {tuple(labels[i][s[i]] for i in kept): variant for s, variant in variants.items()},
    )
