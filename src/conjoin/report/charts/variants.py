"""Variants of a chart for each setting of switches, from records."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from conjoin.records import Record
from conjoin.report.charts.figure import Figure, Switch, Variant
from conjoin.report.charts.points import in_order, shown, unique
from conjoin.report.run_folder import Run
from conjoin.report.table import title_of

__all__ = [
    "Choice",
    "group_choice",
    "group_label",
    "make_figure",
    "pair_labels",
    "reestimated",
    "task_of",
]

Choice = Callable[[Record], str]
"""What a record says at a switch."""

MOST_LINES = 6
"""More lines than this cannot be told apart in one chart."""


_REESTIMATED = ("as merged", "statistics re-estimated")


def reestimated(record: Record) -> str:
    """Say whether the BatchNorm statistics of a record's network were re-estimated."""
    return _REESTIMATED[bool(record.how.get("reestimated"))]


def task_of(record: Record) -> str:
    """Give the task of a record."""
    return record.task


def group_label(run: Run) -> Callable[[Record], str]:
    """Give the function that names the group of a record, different groups differently."""
    labels = dict(zip(run.groups, unique([title_of(run, key) for key in run.groups]), strict=True))

    def label(record: Record) -> str:
        key = str(record.how.get("group"))
        return labels.get(key, shown(key))

    return label


def group_choice(run: Run, records: Iterable[Record], lines: int) -> dict[str, Choice]:
    """Give the switch among groups if their lines are too many for one chart.

    Args:
        run: of the records.
        records: what is shown.
        lines: how many there would be in one chart.
    """
    groups = {str(record.how.get("group")) for record in records}
    return {"networks": group_label(run)} if lines > MOST_LINES and len(groups) > 1 else {}


def pair_labels(run: Run, records: Iterable[Record]) -> dict[str, str]:
    """Name the pairs of networks (`model` of a record) of interpolation and distances.

    What does not tell them apart is left out: the group if there is one, or if there is a switch
    among groups; the pair if each group has one.
    """
    first = {record.model: record for record in records}
    name, groups = group_label(run), {str(record.how.get("group")) for record in first.values()}
    found = []
    for model, record in first.items():
        title, pair = name(record), shown(model.removeprefix(f"{record.how.get('group')}: "))
        if len(groups) == len(first) > 1:
            found.append(title)
        else:
            split = len(groups) == 1 or len(first) > MOST_LINES
            found.append(pair if split else f"{title}: {pair}")
    if len(groups) > 1 and len(first) > MOST_LINES and len(groups) < len(first):
        return dict(zip(first, found, strict=True))  # equal ones are in different charts
    return dict(zip(first, unique(found), strict=True))


def make_figure(
    key: str,
    title: str,
    caption: str,
    records: Iterable[Record],
    choices: Mapping[str, Choice],
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
