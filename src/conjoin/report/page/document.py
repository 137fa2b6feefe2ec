"""The page as one file.

Everything is within the file: it opens from a disk, without a network, years later. Its
Content-Security-Policy allows the one script and the one style sheet that it was written with, by
their hashes, and pictures within the page; nothing else, whatever a name in a run may contain.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path

from conjoin import __version__
from conjoin.atomic import check_target, write_bytes
from conjoin.errors import InputError
from conjoin.report.formats import one_line
from conjoin.report.page.compared import compared_sections, run_labels
from conjoin.report.page.html import Child, Markup, element, render
from conjoin.report.page.sections import Section, run_sections
from conjoin.report.run_folder import Folder, Run, read_run
from conjoin.report.words import headline

__all__ = ["COMPARED", "PAGE", "page_of", "write_page"]

PAGE = "report.html"
COMPARED = "report-compared.html"


def write_page(folders: Folder | Sequence[Folder], out: str | PathLike[str] | None = None) -> Path:
    """Write the page; see `conjoin.report.write_report`."""
    given = [folders] if isinstance(folders, str | PathLike | Run) else folders
    if not given:
        raise InputError("expected the folder of a run, found none; name at least one")
    paths = [one.folder if isinstance(one, Run) else Path(one) for one in given]
    target = Path(out or paths[0] / (PAGE if len(paths) == 1 else COMPARED))
    runs = [read_run(path) for path in paths]
    check_target(target, overwrite=True)
    write_bytes(target, page_of(runs).encode())
    return target


def page_of(runs: Sequence[Run]) -> str:
    """Give the HTML of one run, or of several beside each other."""
    if len(runs) == 1:
        title = one_line(runs[0].info.title) or "A run of conjoin"
        sections = run_sections(runs[0])
        intro = element("p", {"class": "headline"}, headline(runs[0]))
        return _document(title, intro, sections, None)
    title = " / ".join(run_labels(runs))
    return _document(title, None, compared_sections(runs), "compared")


def _document(title: str, intro: Child, sections: Sequence[Section], kind: str | None) -> str:
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("meta", {"name": "generator", "content": f"conjoin {__version__}"}),
        element("link", {"rel": "icon", "href": "data:,"}),  # or servers are asked for one
        element("title", {}, title),
        Markup(f"<style>{style}</style>"),
    )
    links = [
        element("li", {}, element("a", {"href": f"#{key}"}, name)) for key, name, _ in sections
    ]
    main = [
        element(
            "section",
            {"id": key, "aria-labelledby": f"{key}-title"},
            element("h2", {"id": f"{key}-title"}, name),
            content,
        )
        for key, name, content in sections
    ]
    body = element(
        "body",
        {"class": kind},
        element("a", {"class": "skip", "href": "#main"}, "Skip to the result"),
        element("header", {}, element("h1", {}, title)),
        element("nav", {"aria-label": "Sections"}, element("ul", {}, links)),
        element("main", {"id": "main"}, intro, main),
        element(
            "footer", {}, element("p", {"class": "small"}, f"Written by conjoin {__version__}.")
        ),
        Markup(f"<script>{script}</script>"),
    )
    page = element("html", {"lang": "en"}, head, body)
    return f"<!DOCTYPE html>\n{render(page)}\n"


def _resource(name: str) -> str:
    # Line ends as in the repository: a checkout can change them, and the browser's hash is of
    # what it reads, with line feeds.
    text = (files("conjoin.report.page") / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
