"""A figure or a list of pictures of which a reader chooses what is shown."""

from collections.abc import Mapping, Sequence

from conjoin.report.charts import Figure, Switch, draw_variant, page_svg
from conjoin.report.charts.points import shown
from conjoin.report.page.html import Child, Markup, element, render

__all__ = ["WIDTHS", "charts", "figure_block", "switches_block", "variant_key"]

WIDTHS = {"wide": 700, "narrow": 340}
"""Class of a drawing -> its width in pixels; the style sheet shows one of the two."""


MOST_BUTTONS = 5
"""More options than this are a list to choose from."""


def switches_block(key: str, switches: Sequence[Switch]) -> Child:
    """Give the radio buttons or lists of switches; the script of the page reads them.

    Args:
        key: of the figure; unique in the page.
        switches: in the order of `variant_key`.
    """
    fields = []
    for number, switch in enumerate(switches):
        if len(switch.options) > MOST_BUTTONS:
            fields.append(_list(f"{key}-{number}", switch))
            continue
        options = [
            element(
                "label",
                {},
                element(
                    "input",
                    {
                        "type": "radio",
                        "name": f"{key}-{number}",
                        "value": str(index),
                        "checked": index == 0,
                    },
                ),
                element("span", {}, option),
            )
            for index, option in enumerate(switch.options)
        ]
        fields.append(element("fieldset", {}, element("legend", {}, switch.name), options))
    return element("div", {"class": "switches"}, fields) if fields else None


def _list(key: str, switch: Switch) -> Markup:
    options = [
        element("option", {"value": str(index), "selected": index == 0}, option)
        for index, option in enumerate(switch.options)
    ]
    return element(
        "fieldset",
        {},
        element("legend", {}, switch.name),
        element("select", {"name": key, "aria-label": switch.name}, options),
    )


def variant_key(switches: Sequence[Switch], setting: Sequence[str]) -> str:
    """Give what the script compares with the radio buttons: the chosen numbers."""
    pairs = zip(switches, setting, strict=True)
    return " ".join(str(switch.options.index(option)) for switch, option in pairs)


def charts(figure: Figure, prefix: str) -> list[Markup]:
    """Draw every variant in both widths.

    Args:
        figure: what is drawn.
        prefix: of ids; unique in the page.
    """
    found = []
    default = variant_key(figure.switches, next(iter(figure.variants)))
    for number, (setting, variant) in enumerate(figure.variants.items()):
        key = variant_key(figure.switches, setting)
        drawn = [
            element(
                "div",
                {"class": name},
                _svg(draw_variant(variant, width), f"{prefix}-{number}-{name}-", variant.alt),
            )
            for name, width in WIDTHS.items()
        ]
        chosen = _setting(figure.switches, setting)
        found.append(element("div", {"data-variant": key, "hidden": key != default}, chosen, drawn))
    return found


def figure_block(figure: Figure, prefix: str = "", title: str | None = None) -> Markup:
    """Give a figure with its switches, drawings and caption.

    Args:
        figure: what is shown.
        prefix: before the key of the figure, where a page shows two of one key.
        title: other than its own.
    """
    key = f"{prefix}{figure.key}"
    missing = element("p", {"class": "missing", "hidden": True}, "This was not measured.")
    return element(
        "figure",
        {"id": key, "data-switched": True},
        element("h3", {}, title or figure.title),
        switches_block(key, figure.switches),
        charts(figure, key),
        missing if figure.switches else None,
        element("figcaption", {}, figure.caption),
    )


def _setting(switches: Sequence[Switch], setting: Sequence[str]) -> Child:
    if not switches:
        return None
    chosen: Mapping[str, str] = {s.name: o for s, o in zip(switches, setting, strict=True)}
    text = "; ".join(f"{name}: {option}" for name, option in chosen.items())
    return element("p", {"class": "setting"}, text)


def _svg(svg: str, prefix: str, alt: str) -> Markup:
    return Markup(page_svg(svg, prefix=prefix, label=render(shown(alt))))
