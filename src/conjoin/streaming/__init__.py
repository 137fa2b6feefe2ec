"""A merge written to the disk at the disk's speed, whatever its size, and whatever interrupts it.

    Merged ── lay_out ──► Layout ── cut_into_jobs ──► jobs ── write_tensors ──► files

Nothing here knows recipes: a merge is a lazy checkpoint, of which parts are asked for.
"""

from conjoin.streaming.forked import can_fork, run_forked
from conjoin.streaming.jobs import Job, cut_into_jobs, share_of
from conjoin.streaming.journal import Done
from conjoin.streaming.layout import INDEX, File, Layout, lay_out
from conjoin.streaming.noted import NotedCheckpoint
from conjoin.streaming.place import Place, check_out, partial_of, run_place
from conjoin.streaming.pool import default_threads
from conjoin.streaming.ranks import Ranks, joined_ranks
from conjoin.streaming.running import Progress, allocate, write_tensors

__all__ = [
    "INDEX",
    "Done",
    "File",
    "Job",
    "Layout",
    "NotedCheckpoint",
    "Place",
    "Progress",
    "Ranks",
    "allocate",
    "can_fork",
    "check_out",
    "cut_into_jobs",
    "default_threads",
    "joined_ranks",
    "lay_out",
    "partial_of",
    "run_forked",
    "run_place",
    "share_of",
    "write_tensors",
]
