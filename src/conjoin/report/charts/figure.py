"""What a figure is: variants of one chart, and the switches that choose among them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import altair as alt

__all__ = ["Chart", "Figure", "Switch", "Variant"]

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart
"""What altair's `layer` is said to give, and several charts beside each other."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A choice that a reader has.

    Args:
        name: what is chosen, ``"task"`` for instance.
        options: what it can be, the default first; at least two.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """A chart under one setting of the switches.

    Args:
        chart: gives the chart for a width in pixels, axes and legend included.
        alt: what it shows, in words, with its main numbers.
    """

    chart: Callable[[int], Chart]
    alt: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        key: short ASCII name, unique within the page.
        title: one line.
        caption: what is drawn and how to read it.
        switches: the choices; none for a figure of one variant.
        variants: an option of each switch, in their order -> the chart. A setting that was not
            measured is left out; the first is the default.
    """

    key: str
    title: str
    caption: str
    switches: tuple[Switch, ...]
    variants: Mapping[tuple[str, ...], Variant]

    @property
    def alt(self) -> str:
        """What the default variant shows, in words."""
        return next(iter(self.variants.values())).alt
