"""The figures of a run.

Each chart is described once, in Vega-Lite by way of Altair, and drawn by vl-convert: without a
browser, without a network, to SVG, PDF and PNG. The page holds the drawn SVGs and no Vega: it is
smaller, it prints, it runs no code made from text, and so its Content-Security-Policy can forbid
everything but what it was written with. What a reader may switch is drawn beforehand.
"""

from conjoin.report.charts.all_figures import figures
from conjoin.report.charts.drawing import draw_variant, page_svg, print_svg
from conjoin.report.charts.figure import Figure, Switch, Variant
from conjoin.report.charts.files import save_figures

__all__ = [
    "Figure",
    "Switch",
    "Variant",
    "draw_variant",
    "figures",
    "page_svg",
    "print_svg",
    "save_figures",
]
