"""Networks whose units may be rotated, not only reordered, brought together."""

from conjoin.alignment.rotations.aligning import RotationAlignment, Turned, align_rotations
from conjoin.alignment.rotations.finding import find_rotations
from conjoin.alignment.rotations.rotations import Rotatable, Rotations

__all__ = [
    "Rotatable",
    "RotationAlignment",
    "Rotations",
    "Turned",
    "align_rotations",
    "find_rotations",
]
