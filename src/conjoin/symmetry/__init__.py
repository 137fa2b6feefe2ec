"""What may be reordered in a network: a traced model -> which axes move together, proved."""

from conjoin.symmetry.finding import Symmetries, find_symmetries
from conjoin.symmetry.groups import Group, Layout
from conjoin.symmetry.permutations import Permutations

__all__ = ["Group", "Layout", "Permutations", "Symmetries", "find_symmetries"]
