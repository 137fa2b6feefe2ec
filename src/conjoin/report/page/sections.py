"""The sections of the page of one run, in their order."""

from collections.abc import Sequence

from conjoin.report.charts import Figure, figures
from conjoin.report.formats import one_line
from conjoin.report.page.alignment import ALIGNED, alignment_section
from conjoin.report.page.continuum import FIGURES, continuum_section
from conjoin.report.page.gallery import gallery
from conjoin.report.page.html import Child, Markup, element
from conjoin.report.page.making import making
from conjoin.report.page.switched import figure_block
from conjoin.report.page.tables import run_table
from conjoin.report.run_folder import Run
from conjoin.report.table import skipped_of
from conjoin.report.words import Finding, findings

__all__ = ["Section", "run_sections"]

Section = tuple[str, str, Child]
"""Key, title and content of a section; one without content is left out."""

_KINDS = (
    ("result", "What it shows"),
    ("explanation", "What it means"),
    ("next", "What to try next"),
)
_LAYERS = ("depth", "activations", "distances")


def run_sections(run: Run) -> list[Section]:
    """Give the sections of the page of one run."""
    drawn = figures(run)
    layered = [figure for figure in drawn if figure.key in _LAYERS]
    others = [figure for figure in drawn if figure.key not in (*_LAYERS, *FIGURES, *ALIGNED)]
    continuum = continuum_section(run, drawn)
    # A run of nothing but a continuum has no rows, of which there would be a table.
    table = run_table(run) if run.view("row") or not continuum else None
    sections: list[Section] = [
        ("table", "Table", table),
        ("along", "The continuum", continuum),
        ("findings", "Findings", _findings(findings(run), drawn)),
        ("figures", "Figures", [figure_block(figure) for figure in others]),
        ("layers", "Layer by layer", [figure_block(figure) for figure in layered]),
        ("aligned", "Aligned", alignment_section(run, drawn)),
        ("pictures", "Pictures", gallery(run)),
        ("skipped", "Left out", _skipped(run)),
        ("making", "How it was made", making(run)),
    ]
    return [section for section in sections if section[2]]


def _findings(found: Sequence[Finding], drawn: Sequence[Figure]) -> list[Markup]:
    titles = {figure.key: figure.title for figure in drawn}
    parts = []
    for kind, title in _KINDS:
        items = [
            element("li", {}, finding.text, _reference(finding, titles))
            for finding in found
            if finding.kind == kind
        ]
        if items:
            parts += [element("h3", {}, title), element("ul", {}, items)]
    return parts


def _reference(finding: Finding, titles: dict[str, str]) -> Child:
    if finding.figure not in titles:
        return None
    link = element("a", {"href": f"#{finding.figure}"}, titles[finding.figure])
    found: list[Child] = [" (", link, ")"]
    return found


def _skipped(run: Run) -> Child:
    items = [element("li", {}, one_line(text)) for text in skipped_of(run)]
    return element("ul", {}, items) if items else None
