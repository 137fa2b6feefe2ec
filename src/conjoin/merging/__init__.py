"""Several models in, one of the same kind out."""

from conjoin.merging.merge import POOLED, merge
from conjoin.merging.merged import Merged

__all__ = ["POOLED", "Merged", "merge"]
