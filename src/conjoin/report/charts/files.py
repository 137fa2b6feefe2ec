"""Figures as files for a paper or a thesis."""

import re
import unicodedata
from os import PathLike
from pathlib import Path

import vl_convert

from conjoin.atomic import write_bytes
from conjoin.report.charts.all_figures import figures
from conjoin.report.charts.drawing import draw_variant, print_svg
from conjoin.report.run_folder import Run

__all__ = ["WIDTH", "file_names", "save_figures"]

WIDTH = 600
"""Pixels of the SVG; 450 points of the PDF, the width of a page's text."""

_LONGEST = 80  # characters of a name; file systems take 255 bytes


def save_figures(run: Run, folder: str | PathLike[str]) -> list[Path]:
    """Write every figure under every setting of its switches, as SVG, PDF and PNG.

    Ink is black on white. Names are the figure's key and what was chosen, such as
    ``interpolation-mnist-loss.pdf``, in plain ASCII.
    The same run gives the same SVGs and PNGs, to the byte; the entries of a PDF are in any order.
    PNGs have three pixels for one of the SVG.

    Args:
        run: from `read_run`.
        folder: made if it is missing; files that are there are replaced.

    Returns:
        The files, in the order of the figures.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    variants = [(f.key, key, v) for f in figures(run) for key, v in f.variants.items()]
    names = file_names([(key, *setting) for key, setting, _ in variants])
    written = []
    for name, (_, _, variant) in zip(names, variants, strict=True):
        svg = print_svg(draw_variant(variant, WIDTH))
        contents = {
            "svg": svg.encode(),
            "pdf": vl_convert.svg_to_pdf(svg),
            "png": vl_convert.svg_to_png(svg, scale=3, ppi=72),
        }
        for suffix, content in contents.items():
            path = folder / f"{name}.{suffix}"
            write_bytes(path, content)
            written.append(path)
    return written


def file_names(parts: list[tuple[str, ...]]) -> list[str]:
    """Give safe file names without suffix, all different; also where case does not count.

    >>> file_names([("rows", "MNIST"), ("rows", "../mnist"), ("rows", "Ziffern, schön")])
    ['rows-mnist', 'rows-mnist-2', 'rows-ziffern-schon']
    """
    found: list[str] = []
    for part in parts:
        plain = unicodedata.normalize("NFKD", "-".join(part)).encode("ascii", "ignore").decode()
        stem = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:_LONGEST].strip("-")
        name, number = stem, 1
        while name in found:
            number += 1
            name = f"{stem}-{number}"
        found.append(name)
    return found
