"""Several models in, one of the same kind out.

`merge` is the one-line answer. Behind it, `make_tasks` says from headers what is to be done for
every tensor, and `Merged` does it when the tensor, or a part of it, is asked for.
"""

from conjoin.merging.agreement import kept_names
from conjoin.merging.blocks import BLOCK
from conjoin.merging.merge import POOLED, merge
from conjoin.merging.merged import Merged
from conjoin.merging.summaries import Alone, Piece, Workers
from conjoin.merging.task import Rule, Settings, Source, Task, make_tasks

__all__ = [
    "BLOCK",
    "POOLED",
    "Alone",
    "Merged",
    "Piece",
    "Rule",
    "Settings",
    "Source",
    "Task",
    "Workers",
    "kept_names",
    "make_tasks",
    "merge",
]
