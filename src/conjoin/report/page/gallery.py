"""What the networks see: images with what each row says, and the first layers' filters."""

import math
from collections.abc import Sequence

from conjoin.report.charts import Switch
from conjoin.report.charts.points import in_order, unique
from conjoin.report.formats import one_line
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.page.pictures import (
    Filters,
    Samples,
    filter_sheet,
    png_uri,
    read_filters,
    read_samples,
)
from conjoin.report.page.switched import switches_block, variant_key
from conjoin.report.page.tables import name_block
from conjoin.report.run_folder import Run
from conjoin.report.table import title_of

__all__ = ["gallery"]


def gallery(run: Run) -> list[Markup]:
    """Give the pictures of a run, as far as it has some.

    Raises:
        DataError: a file of pictures is malformed.
    """
    samples, filters = read_samples(run.folder), read_filters(run.folder)
    return [
        *([_samples(run, samples)] if samples is not None and len(samples.labels) else []),
        *([_filters(run, filters)] if filters else []),
    ]


def _samples(run: Run, samples: Samples) -> Markup:
    names = unique([_row_label(run, key) for key in samples.rows])
    switches = [Switch("network", tuple(names))] if len(names) > 1 else []
    parts: list[Child] = []
    for task in in_order(samples.tasks):
        cards = [
            _card(run, samples, index, switches, names)
            for index, of in enumerate(samples.tasks)
            if of == task
        ]
        parts += [element("h4", {}, one_line(task)), element("ul", {"class": "cards"}, cards)]
    return element(
        "figure",
        {"id": "samples", "data-switched": True},
        element("h3", {}, "Test images, and what a network says"),
        switches_block("samples", switches),
        parts,
        element(
            "figcaption",
            {},
            "Under each image its label, what the network says, and how sure it is: the "
            "probability of its answer.",
        ),
    )


def _card(
    run: Run, samples: Samples, index: int, switches: Sequence[Switch], names: Sequence[str]
) -> Markup:
    task, truth = samples.tasks[index], int(samples.labels[index])
    label = _class_name(run, task, truth)
    answers = [_answer(run, samples, row, index) for row in range(len(names))]
    said = [f"{name}: {text}{sure}" for name, (text, sure, _) in zip(names, answers, strict=True)]
    shown = []
    for number, (name, (text, sure, right)) in enumerate(zip(names, answers, strict=True)):
        mark = "" if right is None else ("✓ " if right else "✗ ")
        color = None if right is None else ("says-right" if right else "says-wrong")
        key = variant_key(switches, [name] if switches else [])
        attributes = {"class": color, "data-variant": key, "hidden": number > 0}
        shown.append(element("p", attributes, mark, name_block(text), sure))
    return element(
        "li",
        {},
        element(
            "img",
            {
                "src": png_uri(samples.images[index]),
                "alt": one_line(f"{task}, label {label}. {'; '.join(said)}"),
                "width": str(samples.images.shape[2]),
                "height": str(samples.images.shape[1]),
            },
        ),
        element("p", {}, name_block(label)),
        shown,
    )


def _answer(run: Run, samples: Samples, row: int, index: int) -> tuple[str, str, bool | None]:
    """Give what a row says, how sure it is, and whether it is right."""
    said, truth = int(samples.predictions[row, index]), int(samples.labels[index])
    if math.isnan(samples.confidences[row, index]):
        return "NaN", "", False
    if said < 0:
        return "does not answer for this task", "", None
    sure = f", {100 * float(samples.confidences[row, index]):.0f}\N{NO-BREAK SPACE}%"
    return _class_name(run, samples.tasks[index], said), sure, said == truth


def _class_name(run: Run, task: str, number: int) -> str:
    info = run.tasks.get(task)
    classes = info.classes if info and info.classes else []
    return one_line(classes[number]) if 0 <= number < len(classes) else str(number)


def _row_label(run: Run, key: str) -> str:
    row = run.rows.get(key)
    if row is None:
        return key
    same = sum(other.name == row.name for other in run.rows.values())
    return f"{row.name} ({title_of(run, row.group)})" if same > 1 else row.name


def _filters(run: Run, filters: Sequence[Filters]) -> Markup:
    owners = [found.owner for found in filters]
    items = []
    for found in filters:
        name = _row_label(run, found.owner) if found.is_row else found.owner
        if owners.count(found.owner) > 1 and not found.is_row:
            name = f"{name} ({title_of(run, found.group)})"
        sheet = filter_sheet(found.weights)
        count, _, height, width = found.weights.shape
        picture = element(
            "img",
            {
                "src": png_uri(sheet),
                "alt": one_line(f"{count} filters of {height} by {width} of {name}"),
                "width": str(sheet.shape[1]),
                "height": str(sheet.shape[0]),
            },
        )
        items.append(element("li", {}, picture, name_block(name)))
    return element(
        "figure",
        {"id": "filters"},
        element("h3", {}, "The filters of the first layer"),
        element("ul", {"class": "filters"}, items),
        element(
            "figcaption",
            {},
            "Grey is a weight of zero, white and black the largest of either sign in that network. "
            "Two networks that were trained apart have like filters at other places; their mean "
            "is then grey.",
        ),
    )
