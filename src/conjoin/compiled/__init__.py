"""What is faster in C: elementwise programs to the same bits as torch's, and three special things.

A program runs over blocks of tensors (`Run`), or from files to a file (`run_over_files`).

    function of tensors ──symbols──► operations ──► program ──► tiles.c, a tile at a time
           └────────────tracing──► operations ──► program, proved by running ──┘

It is an addition that an installation may lack (no compiler, other systems) and that can be turned
off (the environment variable ``CONJOIN_COMPILED=0``): torch does everything then, to the same bits,
but for sums over a whole tensor or row, whose last bits differ.
"""

from conjoin.compiled.counting import count_patterns
from conjoin.compiled.files import Passed, Stretch, run_over_files
from conjoin.compiled.library import load_library
from conjoin.compiled.matrices import add_scored_changes, divergence_of_rows, scores_of_changes
from conjoin.compiled.program import Program, Run
from conjoin.compiled.programs import LEAST, Programs, may_be_read, note_masks
from conjoin.compiled.symbols import LARGEST_STRIP, Notes, Symbol, SymbolOfSums

__all__ = [
    "LARGEST_STRIP",
    "LEAST",
    "Notes",
    "Passed",
    "Program",
    "Programs",
    "Run",
    "Stretch",
    "Symbol",
    "SymbolOfSums",
    "add_scored_changes",
    "count_patterns",
    "divergence_of_rows",
    "load_library",
    "may_be_read",
    "note_masks",
    "run_over_files",
    "scores_of_changes",
]
