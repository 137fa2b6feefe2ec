"""Elements of a page. Every text is escaped: there is no other way to put one in."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Child", "Markup", "element", "render"]


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML that was made here, and is not escaped again.

    Args:
        text: well-formed HTML. Only `element`, and the drawing of charts, make it.
    """

    text: str


Child: TypeAlias = "str | Markup | list[Child] | list[Markup] | tuple[Child, ...] | None"
"""What an element holds: a text, an element, several of these, or nothing."""

_VOID = frozenset({"br", "img", "input", "link", "meta"})
_NAME = re.compile(r"[a-z][a-z0-9-]*")


def element(name: str, attributes: Mapping[str, str | bool | None], *children: Child) -> Markup:
    """Make an element.

    Args:
        name: of the element.
        attributes: a bool is an attribute without value, or none; None is left out.
        children: texts are escaped.

    Raises:
        ValueError: a name is no name.

    >>> element("a", {"href": "#x", "class": None}, "a < b").text
    '<a href="#x">a &lt; b</a>'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        _check(key)
        parts.append(key if value is True else f'{key}="{_escaped(str(value))}"')
    _check(name)
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{render(children)}</{name}>")


def render(child: Child) -> str:
    """Give the HTML of a text, an element, or several.

    >>> render(["a & b", None, element("br", {})])
    'a &amp; b<br>'
    """
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child.text
    return _escaped(child) if isinstance(child, str) else "".join(map(render, child))


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected the name of an element or attribute, found {name!r}")


def _escaped(text: str) -> str:
    # A control character is an error in HTML; one that turns text around hides what is written.
    seen = "".join(
        c if c.isprintable() or c in "\n\t\xa0" else c.encode("unicode_escape").decode()
        for c in text
    )
    return html.escape(seen)
