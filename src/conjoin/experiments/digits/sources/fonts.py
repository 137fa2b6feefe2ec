"""The faces in which digits are rendered, found inside installed Python packages.

A family is what a reader would call one typeface; its faces are the regular, the bold, the italic.
Some families are held out: no training or validation image is set in them, so that the test part
also asks whether a network reads digits in a typeface that it has never seen.
"""

import hashlib
import importlib.util
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError

__all__ = ["FAMILIES", "Family", "Glyph", "Glyphs", "read_faces"]


class Family(NamedTuple):
    """One typeface: its name, where its files are, its faces, and whether only tests use it."""

    name: str
    package: str
    folder: str
    files: tuple[str, ...]
    held_out: bool = False
    stretch: float = 1.0  # horizontal; a condensed hand is widened, or it blurs into bars


_MPL = ("matplotlib", "mpl-data/fonts/ttf")

# The order of families and of files decides the pixels: append, and raise RENDER_VERSION.
# Left out on purpose: hairline weights (Roboto Thin, Amatic Regular), which vanish at 20 pixels.
FAMILIES: tuple[Family, ...] = (
    Family(
        "Roboto",
        "font_roboto",
        "files",
        (
            "Roboto-Light.ttf",
            "Roboto-Regular.ttf",
            "Roboto-Bold.ttf",
            "Roboto-Black.ttf",
            "Roboto-Italic.ttf",
        ),
    ),
    Family(
        "Source Sans Pro",
        "font_source_sans_pro",
        "files",
        (
            "SourceSansPro-Regular.ttf",
            "SourceSansPro-Bold.ttf",
            "SourceSansPro-Black.ttf",
            "SourceSansPro-It.ttf",
        ),
    ),
    Family(
        "Source Serif Pro",
        "font_source_serif_pro",
        "files",
        (
            "SourceSerifPro-Regular.ttf",
            "SourceSerifPro-Bold.ttf",
            "SourceSerifPro-Black.ttf",
            "SourceSerifPro-It.ttf",
        ),
    ),
    Family("Fredoka One", "font_fredoka_one", "files", ("FredokaOne-Regular.ttf",), True),
    Family(
        "Hanken Grotesk",
        "font_hanken_grotesk",
        "files",
        ("HankenGrotesk-Regular.otf", "HankenGrotesk-Bold.otf", "HankenGrotesk-Italic.otf"),
    ),
    Family("Intuitive", "font_intuitive", "files", ("Intuitive.ttf",), True),
    Family("Amatic SC", "font_amatic_sc", "files", ("AmaticSC-Bold.ttf",), stretch=2.0),
    Family(
        "Caladea",
        "font_caladea",
        "files",
        ("Caladea-Regular.ttf", "Caladea-Bold.ttf", "Caladea-Italic.ttf"),
        True,
    ),
    Family(
        "Manrope",
        "font_manrope",
        "files",
        ("Manrope-Regular.ttf", "Manrope-Bold.ttf", "Manrope-ExtraBold.ttf"),
        True,
    ),
    Family(
        "DejaVu Sans",
        *_MPL,
        ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf"),
    ),
    Family("DejaVu Sans Mono", *_MPL, ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")),
    Family(
        "DejaVu Serif",
        *_MPL,
        ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"),
    ),
    Family(
        "STIX General",
        *_MPL,
        ("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
    ),
    Family("Computer Modern Roman", *_MPL, ("cmr10.ttf", "cmb10.ttf")),
    Family("Computer Modern Sans", *_MPL, ("cmss10.ttf",)),
    Family("Computer Modern Typewriter", *_MPL, ("cmtt10.ttf",)),
)


def read_faces(family: Family) -> tuple[bytes, ...]:
    """Return the font files of a family, as bytes and in its order.

    Raises:
        DataError: If the package is not installed or lacks a file.
    """
    # find_spec does not import the package: matplotlib alone would cost half a second.
    spec = importlib.util.find_spec(family.package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the fonts of {family.name} come with the Python package {family.package}, which is "
            'not installed; run: pip install "conjoin[digits]"'
        )
    folder = Path(spec.submodule_search_locations[0]) / family.folder
    faces = []
    for file in family.files:
        try:
            faces.append((folder / file).read_bytes())
        except OSError as error:
            raise DataError(
                f"{family.package} should bring the font file {folder / file}, which cannot be "
                f'read ({error}); run: pip install --force-reinstall "conjoin[digits]"'
            ) from error
    return tuple(faces)


class Glyph(NamedTuple):
    """A digit's coverage, uint8 ``[height, width]`` cropped to its ink, and its top in pixels."""

    mask: NDArray[np.uint8]
    top: int  # rows below the line that all digits of the face share, so that neighbours align


@dataclass
class Glyphs:
    """Rendered digits, each made once: FreeType is too slow to be asked for every image."""

    families: tuple[Family, ...]
    faces: tuple[tuple[bytes, ...], ...]
    _made: dict[tuple[int, int, int], tuple[Glyph, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, families: tuple[Family, ...] = FAMILIES) -> "Glyphs":
        """Read the font files of these families.

        Raises:
            DataError: If a font package, or Pillow to render with, is not installed.
        """
        if importlib.util.find_spec("PIL") is None:
            raise DataError('rendering digits needs Pillow; run: pip install "conjoin[digits]"')
        return cls(families, tuple(read_faces(family) for family in families))

    def digests(self) -> tuple[str, ...]:
        """One line for each family: its name and the digest of its files."""
        return tuple(
            f"{family.name}={hashlib.sha256(b''.join(faces)).hexdigest()[:16]}"
            for family, faces in zip(self.families, self.faces, strict=True)
        )

    def digits(self, family: int, face: int, height: int) -> tuple[Glyph, ...]:
        """Return the ten digits of a face, the 8 being about ``height`` pixels high."""
        key = (family, face, height)
        if key not in self._made:
            self._made[key] = _draw_digits(self.faces[family][face], height)
        return self._made[key]


def _draw_digits(font_file: bytes, height: int) -> tuple[Glyph, ...]:
    from PIL import Image, ImageDraw, ImageFont

    # The basic layout, since the other depends on an optional library (raqm).
    basic = ImageFont.Layout.BASIC
    probe = ImageFont.truetype(io.BytesIO(font_file), 200, layout_engine=basic).getbbox("8")
    pixels = max(1, round(200 * height / (probe[3] - probe[1])))
    font = ImageFont.truetype(io.BytesIO(font_file), pixels, layout_engine=basic)
    glyphs = []
    for digit in "0123456789":
        canvas = Image.new("L", (6 * height, 6 * height))
        ImageDraw.Draw(canvas).text((2 * height, 2 * height), digit, fill=255, font=font)
        box = canvas.getbbox()
        if box is None:
            raise DataError(f"a font ({font.getname()}) has no glyph for the digit {digit}")
        glyphs.append(Glyph(np.asarray(canvas.crop(box)), box[1]))
    return tuple(glyphs)
