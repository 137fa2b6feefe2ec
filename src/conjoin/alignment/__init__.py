"""Networks that never knew of each other, brought into one order, unit by unit."""

from conjoin.alignment.aligning import Alignment, Matched, align
from conjoin.alignment.learned import Learned, learn

__all__ = ["Alignment", "Learned", "Matched", "align", "learn"]
