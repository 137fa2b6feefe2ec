"""Networks that never knew of each other, brought into one order, unit by unit."""

from conjoin.alignment.aligning import Alignment, Matched, align

__all__ = ["Alignment", "Matched", "align"]
