"""What may be reordered in a network: a traced model -> which axes move together, proved."""

from conjoin.symmetry.finding import Symmetries, find_symmetries
from conjoin.symmetry.groups import Group, Layout, Part
from conjoin.symmetry.optimizer_state import reordered_optimizer_state
from conjoin.symmetry.permutations import Permutations
from conjoin.symmetry.reordered import ReorderedCheckpoint

__all__ = [
    "Group",
    "Layout",
    "Part",
    "Permutations",
    "ReorderedCheckpoint",
    "Symmetries",
    "find_symmetries",
    "reordered_optimizer_state",
]
