"""From a chart to SVG: for the page, whose colours follow its theme, and for print.

Everything that is ink (text, axes, grid) is drawn in one colour that no chart uses otherwise. In
the page it becomes ``currentColor``, in print black; lighter lines are the same ink, thinner.
"""

import re

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode

from conjoin.report.charts.figure import Chart, Variant

__all__ = ["INK", "PALETTE", "draw", "draw_variant", "page_svg", "print_svg"]

INK = "#010203"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
"""Okabe and Ito's colours, which differ for colour-blind readers too. Those that are seen best on
white and on black come first; their yellow and black are left out, since each vanishes on one."""

_AXIS = {
    "labelColor": INK,
    "titleColor": INK,
    "domainColor": INK,
    "tickColor": INK,
    "gridColor": INK,
    "domainOpacity": 0.5,
    "tickOpacity": 0.5,
    "gridOpacity": 0.13,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "titlePadding": 8,
}
_LEGEND = {
    "labelColor": INK,
    "titleColor": INK,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "symbolSize": 90,
}
_CONFIG = {
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": _LEGEND,
    "text": {"color": INK, "fontSize": 12},
}


def draw_variant(variant: Variant, width: int) -> str:
    """Draw the chart of a variant as SVG, `width` pixels wide, its ink in the colour `INK`."""
    # Altair checks each part of a chart when it is made: half of the time until it is drawn.
    with debug_mode(False):
        chart = variant.chart(width)
    return draw(chart)


def draw(chart: Chart) -> str:
    """Draw a chart as SVG, its ink in the colour `INK`."""
    # The tests check descriptions against the schema; here it would take a third of the time.
    spec = {**chart.to_dict(validate=False), "config": _CONFIG}
    # Vega-Lite of the version that altair describes; no data are ever fetched.
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.vegalite_to_svg(spec, vl_version=version, allowed_base_urls=[]))


# What Vega writes for pointers and for later animation. A page has thousands of these.
_NOISE = re.compile(
    r'<path class="(?:foreground|background)" aria-hidden="true"[^>]*/>'
    r'|<rect width="[^"]*" height="[^"]*" fill="transparent"/>'
    r'| pointer-events="[^"]*"| opacity="1"| font-family="[^"]*"| xmlns:xlink="[^"]*"'
    r'| aria-roledescription="[^"]*"| role="graphics-[^"]*"'
)
_LONG_NUMBER = re.compile(r"(\d+\.\d\d)\d+")
_ID = re.compile(r'(\bid="|url\(#)')
_ROOT = re.compile(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"[^>]*>')
# Attribute values and texts: Vega escapes <, > and & in both, and quotes in the former.
_TAG = re.compile(r"<[^>]*>")
_NAMED = re.compile(r' aria-label="[^"]*"')


def page_svg(svg: str, *, prefix: str, label: str) -> str:
    """Make a drawn chart fit to stand in the page.

    Args:
        svg: as `draw` gives it.
        prefix: put before every id, since ids of two charts in one page must differ; ASCII.
        label: escaped text for readers who do not see it.
    """
    found = _ROOT.match(svg)
    if found is None:
        raise ValueError(f"expected an SVG with width and height, found {svg[:60]!r}")
    width, height = found.groups()
    root = (
        f'<svg class="chart" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{label}">'
    )
    # vl-convert's rectangles, lines and paths keep two decimals: a fiftieth of a pixel is unseen.
    return root + _TAG.sub(lambda tag: _thinner(tag[0], prefix), svg[found.end() :])


def _thinner(tag: str, prefix: str) -> str:
    names: list[str] = _NAMED.findall(tag)
    bare = _NOISE.sub("", _NAMED.sub("\0", tag))  # what a name says is none of ours to change
    bare = _ID.sub(lambda found: found[1] + prefix, bare.replace(f'"{INK}"', '"currentColor"'))
    bare = _LONG_NUMBER.sub(r"\1", bare)
    for name in names:
        bare = bare.replace("\0", name, 1)
    return bare


def print_svg(svg: str) -> str:
    """Make a drawn chart fit for print: black ink on white."""
    found = _ROOT.match(svg)
    if found is None:
        raise ValueError(f"expected an SVG with width and height, found {svg[:60]!r}")
    width, height = found.groups()
    paper = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    body = svg[found.end() :].replace('fill="transparent"', 'fill="none"', 1)
    return svg[: found.end()] + paper + body.replace(f'"{INK}"', '"#000000"')
