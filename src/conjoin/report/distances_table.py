"""The table of a run in which no network was run: how far the weights are apart, layer by layer."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conjoin.report.formats import markdown_escaped, markdown_row, number, one_line
from conjoin.report.means import mean_of
from conjoin.report.run_folder import Run

__all__ = ["DistancesLine", "distances_lines", "distances_markdown", "print_distances"]

TITLE = "Distances between the weights"
COLUMNS = ("layer", "relative distance", "cosine")
LEGEND = (
    "The relative distance is |a - b| / |a|: weights of one length that have nothing to do with "
    "each other are at 1.41, with a cosine of 0."
)
_MOST = 40
"""Lines that a terminal shows; a file has all."""


@dataclass(frozen=True)
class DistancesLine:
    """One layer of a pair of models.

    Args:
        pair: both, in words.
        layer: its name; "mean" for that over the layers.
        relative: its relative distance, the mean over the seeds.
        cosine: of the angle between both, likewise.
    """

    pair: str
    layer: str
    relative: float
    cosine: float


def distances_lines(run: Run) -> tuple[DistancesLine, ...]:
    """Give the layers of every pair in their order, and behind them their mean."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in run.view("distances"):
        pair = f"{record.how['from']} to {record.how['to']}"
        layers = found.setdefault(pair, {})
        layers.setdefault(str(record.how["layer"]), {}).setdefault(record.metric, []).append(
            record.value
        )
    lines = []
    for pair, layers in found.items():
        own = [
            DistancesLine(
                pair, layer, mean_of(values["relative distance"]), mean_of(values["cosine"])
            )
            for layer, values in layers.items()
            if {"relative distance", "cosine"} <= values.keys()
        ]
        if own:
            relative, cosine = (mean_of(x.relative for x in own), mean_of(x.cosine for x in own))
            lines += [*own, DistancesLine(pair, "mean", relative, cosine)]
    return tuple(lines)


def print_distances(run: Run, console: Console) -> None:
    """Print the table; nothing if there are no distances."""
    lines = distances_lines(run)
    if not lines:
        return
    table = Table(title=Text(TITLE), title_justify="left")
    table.add_column(COLUMNS[0], overflow="fold")
    for column in COLUMNS[1:]:
        table.add_column(column, justify="right")
    pair = ""
    for line in _shortened(lines):
        if line.pair != pair:
            pair = line.pair
            table.add_section()
            table.add_row(Text(one_line(pair), style="bold"))
        table.add_row(Text(f"  {one_line(line.layer)}"), *_numbers(line))
    console.print(table)
    console.print(Text(LEGEND, style="dim"), highlight=False)
    if left := len(lines) - len(_shortened(lines)):
        text = f"{left} more layers are in results.csv, and on the page."
        console.print(Text(text, style="dim"), highlight=False)


def distances_markdown(run: Run) -> str:
    """Give the table in Markdown, with all layers; nothing if there are no distances."""
    lines = distances_lines(run)
    if not lines:
        return ""
    text = [f"{TITLE}:", "", markdown_row(COLUMNS[0], COLUMNS[1:]), "|---|---:|---:|"]
    pair = ""
    for line in lines:
        if line.pair != pair:
            pair = line.pair
            text.append(markdown_row(f"**{markdown_escaped(pair)}**", ["", ""]))
        text.append(markdown_row(markdown_escaped(line.layer), _numbers(line)))
    return "\n".join([*text, "", LEGEND, ""])


def _shortened(lines: tuple[DistancesLine, ...]) -> tuple[DistancesLine, ...]:
    """Leave the last layers out, and the means in, if there are too many."""
    room = _MOST - sum(line.layer == "mean" for line in lines)
    kept = []
    for line in lines:
        room -= line.layer != "mean"
        if room >= 0 or line.layer == "mean":
            kept.append(line)
    return tuple(kept)


def _numbers(line: DistancesLine) -> list[str]:
    return [number(line.relative, "distance"), f"{line.cosine:z.3f}"]
