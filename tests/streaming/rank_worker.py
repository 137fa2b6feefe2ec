"""One of several processes that write merges together: started with a folder, as torchrun would."""

import sys
from pathlib import Path
from typing import Any

from forked_runs import small_blocks
from streaming_runs import RANDOM, REAL, WHOLE, merged_of

from conjoin.checkpoints import open_checkpoint
from conjoin.streaming import (
    Place,
    allocate,
    cut_into_jobs,
    joined_ranks,
    lay_out,
    run_place,
    write_tensors,
)

MERGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "whole": (WHOLE, {}),
    "random": (RANDOM, {}),
    **{row.name: (row, {}) for row in REAL},
    "ties per tensor": ("ties", {"parameters": {"per": "tensor", "rescale": "l1"}}),
}
"""Name of the result -> method and settings."""


def main(folder: Path) -> None:
    small_blocks()
    models = [open_checkpoint(folder / f"{name}.safetensors") for name in "abc"]
    with joined_ranks() as ranks:
        for name, (method, settings) in MERGES.items():
            merged = merged_of(models, method, **settings)
            layout = lay_out(merged.specs, merged.metadata, shard_bytes=3000)
            jobs = cut_into_jobs(layout, merged)
            out = folder / name
            opened = run_place(out)

            def prepare(out: Path = out, opened: Any = opened, layout: Any = layout) -> Place:
                place: Place = opened.__enter__()
                place.begin()
                allocate(place, layout)
                return place

            place = ranks.together(prepare)
            done = write_tensors(merged, layout, jobs, place, ranks=ranks, threads=2)
            assert sorted(done) == [job.number for job in jobs]  # every process knows of all

            def finish(place: Place = place, opened: Any = opened) -> None:
                place.finish(overwrite=False, single=None, sync=False)
                opened.__exit__(None, None, None)

            ranks.together(finish)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
