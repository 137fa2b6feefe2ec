"""What `conjoin.find_symmetries` finds in a zoo of networks, and whether it is right.

    python benchmarks/zoo.py [--family torchvision] [--only PATTERN] [--output FILE.jsonl] [--table]
    python benchmarks/zoo.py --align [the same]

Families: small networks written here, every classification constructor of torchvision, many
families of timm, small ones of transformers; all with random weights. They need torchvision, timm
and transformers, which conjoin does not install.

Of each model: whether it is traced; groups; dimensions of tensors that may be reordered, of all
that have more than one position; the share of parameters in such tensors; whether the function is
kept; and seconds of one core, the proof included.

Whether the function is kept is found without conjoin's own proof: everything is reordered at random
(another element of the group than the proof's), in float64, with other random numbers in the place
of constant weights and of statistics, other inputs and another size of batch. A model whose outputs
then differ by more than 1e-9, though the proof passed, is *silently wrong*. So that equal outputs
mean something, a copy in which only every other tensor is reordered must differ.

With ``--align`` it is measured instead whether `conjoin.align` puts a reordered copy of each model
back: *exact* if all weights then are those of the model, bit for bit; *too slow* after 60 seconds
of one core.

With ``--output``, each model is a line of the file as soon as it is measured, and what is there
already is not measured again.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_models import FAMILIES, aligning, builds, note_of
from zoo_models.checking import (
    BAR,
    batch_of,
    batch_size_of,
    error_between,
    outputs_of,
    randomized,
)
from zoo_models.running import Measure, known, run

import conjoin
from conjoin.errors import TraceError
from conjoin.symmetry import Permutations, Symmetries

__all__ = ["SEED", "main", "main_of", "measure", "summary"]

SEED = 20


def measure(family: str, name: str) -> dict[str, Any]:
    """Find the symmetries of one model, and check them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs = builds(family)[name]()
    note = {"note": note_of(family, name)} if note_of(family, name) else {}
    began = time.process_time()
    try:
        found = conjoin.find_symmetries(model, inputs)
    except TraceError as error:
        return {**note, "traced": False, "reason": str(error)[:600]}
    seconds = time.process_time() - began
    generator = torch.Generator().manual_seed(SEED)
    reordering = found.sample(generator)
    counts = _counts(found, model)
    example = randomized(model, generator)
    del model
    # The example itself is run last: some models keep what a first run has computed.
    try:
        batch = batch_of(inputs, batch_size_of(inputs), generator)
        reordered = outputs_of(reordering.apply(example), batch)
    except Exception:  # it takes one size of batch only
        batch = batch_of(inputs, 2, generator)
        reordered = outputs_of(reordering.apply(example), batch)
    spoilt = outputs_of(_half(reordering, example), batch)
    expected = outputs_of(example, batch)
    error = error_between(reordered, expected)
    return {
        **note,
        "traced": True,
        **counts,
        "proof": found.proof.error,
        "guilty": list(found.proof.guilty),
        "unknown": dict(found.unknown),
        "pinned": {reason: len(tensors) for reason, tensors in found.layout.pinned.items()},
        "error": error,
        "half_reordered": error_between(spoilt, expected),
        "kept": error < BAR,
        "seconds": seconds,
        "seconds_on_the_clock": found.seconds,
    }


def _counts(found: Symmetries, model: nn.Module) -> dict[str, Any]:
    members = {member for group in found.groups.values() for member in group.members}
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "groups": len(found.groups),
        "axes": len(members & _dimensions(model)),
        "axes_of_all": sum(size > 1 for tensor in tensors for size in tensor.shape),
        "parameters": found.parameters,
        "share": found.movable / max(found.parameters, 1),
    }


def _dimensions(model: nn.Module) -> set[tuple[str, int]]:
    """Name the dimensions of all tensors; of a tied one, those under its first name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {(name, dim) for name, tensor in named for dim in range(tensor.dim())}


@torch.no_grad()
def _half(reordering: Permutations, model: nn.Module) -> nn.Module:
    """Give a copy in which every other tensor is reordered."""
    made = reordering.apply(model)
    before = dict(model.named_parameters())
    for number, (name, tensor) in enumerate(made.named_parameters()):
        if number % 2:
            tensor.copy_(before[name])
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the top of the file."""
    return main_of(measure, str(__doc__), arguments, align=True)


def main_of(
    measure: Measure, about: str, arguments: Sequence[str] | None, *, align: bool = False
) -> int:
    """Measure models in one way or another; with `align` there is the option to align them."""
    parser = _parser(about)
    if align:
        parser.add_argument(
            "--align", action="store_true", help="align a reordered copy of each model instead"
        )
    options = parser.parse_args(arguments)
    align = align and options.align
    shown, added = (aligning.line_of, aligning.summary) if align else (line_of, summary)
    families = options.family or FAMILIES
    tasks = [
        (family, name)
        for family in families
        for name in builds(family)
        if any(fnmatch(name, pattern) for pattern in options.only or ["*"])
    ]
    if options.table:
        done = known(options.output)
        records = [done[task] for task in tasks if task in done]
    else:
        records = list(
            run(
                tasks,
                aligning.measure if align else measure,
                options.output,
                seconds=options.seconds,
                memory=options.memory,
                say=lambda record: print(shown(record), flush=True),
            ).values()
        )
    print(added(records))
    return 0


def _parser(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--family", action="append", choices=FAMILIES, help="may be repeated")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="such as 'resnet*'; may be repeated"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON lines, appended to")
    parser.add_argument("--table", action="store_true", help="measure nothing, show what is known")
    parser.add_argument(
        "--seconds", type=float, default=300, help="of the processor, for a model (default: 300)"
    )
    parser.add_argument("--memory", type=float, default=16, help="for a model, GiB (default: 16)")
    return parser


def line_of(record: Mapping[str, Any]) -> str:
    """Give a model in one line."""
    head = f"{record['family']:12} {record['name']:32}"
    if "groups" not in record:
        return f"{head} {record['reason']}"
    verdict = "kept" if record["error"] < BAR else "DIFFERS"
    more = [f"guilty {len(record['guilty'])}"] if record["guilty"] else []
    more += [f"unknown {','.join(record['unknown'])}"] if record["unknown"] else []
    more += ["insensitive"] if record["half_reordered"] < BAR else []
    found = f"{record['groups']:4} groups, {record['axes']:5} of {record['axes_of_all']:5} axes"
    share = f"{record['share']:6.1%} of parameters, {verdict} {record['error']:.0e}"
    return f"{head} {found}, {share}, {record['seconds']:6.1f} s {' '.join(more)}".rstrip()


def summary(records: Iterable[Mapping[str, Any]]) -> str:
    """Give the table, a row for each family.

    Columns: models, traced, function kept, silently wrong (the proof passed, and it differs),
    models with groups that the proof found guilty, with an operation that has no rule, median and
    least share of parameters that move, median and most seconds.
    """
    rows = [
        "| family | models | traced | function kept | silently wrong | with guilty groups "
        "| with unknown operations | share that moves, median (least) | seconds, median (most) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_family.setdefault(record["family"], []).append(record)
    for family, models in by_family.items():
        traced = [m for m in models if "groups" in m]
        shares = [m["share"] for m in traced] or [0.0]
        seconds = [m["seconds"] for m in traced] or [0.0]
        cells = (
            family,
            len(models),
            len(traced),
            sum(m["kept"] for m in traced),
            sum(not m["error"] < BAR for m in traced),
            sum(bool(m["guilty"]) for m in traced),
            sum(bool(m["unknown"]) for m in traced),
            f"{statistics.median(shares):.1%} ({min(shares):.1%})",
            f"{statistics.median(seconds):.1f} ({max(seconds):.1f})",
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
