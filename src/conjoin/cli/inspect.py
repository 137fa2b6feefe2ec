"""`conjoin inspect`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from conjoin.cli.model_argument import open_model
from conjoin.cli.output import (
    count_noun,
    format_bytes,
    make_table,
    output_console,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from conjoin.checkpoints import Checkpoint
    from conjoin.measure import FiniteCount
    from conjoin.recipes import Stack

__all__ = ["inspect"]


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A file, a folder, or a reference: org/name@revision+org/adapter.",
            show_default=False,
        ),
    ],
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of a torch file has the weights, say ema."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", metavar="GLOB", help="Only names that match: 'encoder.*'."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="PATTERN",
            help="Where the layers are, with * for the number, if it is not what is found: "
            "'model.layers.*'.",
        ),
    ] = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Read headers only: do not count NaN and infinity.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tensors of a model: name, shape, dtype, what each is for, and NaN or infinity.

    Look here before a merge: whether two models have the same names and shapes, which tensors
    are tied, whether conjoin takes each for what it is (only weights go through a method), and
    where it finds layers, which gradients and slices of a recipe count. A model is a file, a
    folder of the Hugging Face kind, or a reference to the Hub, with a LoRA adapter if you like.
    Data are read in pieces, so that files larger than memory work; with --no-data, not at all.

    Writes nothing. The exit code is 0 also if there are NaN or infinities.

    [dim]conjoin inspect model.safetensors[/dim]

    [dim]conjoin inspect last.ckpt --entry ema --pattern '*.running_var'[/dim]

    [dim]conjoin inspect org/name@main+org/adapter --no-data[/dim]
    """
    from conjoin.checkpoints import match_names
    from conjoin.cli.progress import tracked
    from conjoin.recipes import find_layers

    checkpoint = open_model(model, entry)
    names = list(checkpoint) if pattern is None else match_names(pattern, checkpoint)
    found = [_describe_stack(stack) for stack in find_layers(checkpoint.specs, layers).stacks]
    if no_data:
        report = _describe(checkpoint, names, {}, found)
    else:
        with tracked(checkpoint) as counted:
            report = _describe(checkpoint, names, _count(counted, names), found)
    print_json(report) if as_json else _print(report)


def _describe_stack(stack: "Stack") -> dict[str, Any]:
    first, last = stack.numbers[0], stack.numbers[-1]
    return {"pattern": stack.pattern, "count": len(stack), "first": first, "last": last}


def _count(checkpoint: "Checkpoint", names: Sequence[str]) -> "dict[str, FiniteCount]":
    from conjoin.measure import count_nonfinite

    own = dict.fromkeys(checkpoint.specs[name].alias_of or name for name in names)
    return {name: count_nonfinite(checkpoint, name) for name in own}


def _describe(
    checkpoint: "Checkpoint",
    names: Sequence[str],
    counts: "dict[str, FiniteCount]",
    layers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    rows = []
    for name in names:
        spec = checkpoint.specs[name]
        count = counts.get(spec.alias_of or name)
        rows.append(
            {
                "name": name,
                "shape": list(spec.shape),
                "dtype": spec.stored.name,
                "kind": spec.kind.value,
                "tied_to": spec.alias_of,
                "elements": spec.numel,
                "bytes": spec.nbytes,
                "nan": None if count is None else count.nan,
                "inf": None if count is None else count.inf,
            }
        )
    return {
        "file": checkpoint.source,
        "tensors": rows,
        "totals": _totals(rows),
        "layers": list(layers),
        "nonfinite": [row["name"] for row in rows if row["nan"] or row["inf"]] if counts else None,
        "metadata": dict(checkpoint.metadata),
    }


def _totals(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Sum up each kind; a tied tensor counts where its data are, under the first of its names."""
    totals: dict[str, dict[str, int]] = {}
    seen: set[str] = set()
    for row in rows:
        owner = row["tied_to"] or row["name"]
        if owner in seen:
            continue
        seen.add(owner)
        total = totals.setdefault(row["kind"], {"tensors": 0, "elements": 0, "bytes": 0})
        total["tensors"] += 1
        total["elements"] += row["elements"]
        total["bytes"] += row["bytes"]
    return totals


def _print(report: dict[str, Any]) -> None:
    console, counted = output_console(), report["nonfinite"] is not None
    columns = ["name", "kind", "dtype", "tied to", "shape", *(["NaN", "Inf"] if counted else [])]
    rows = [
        [
            row["name"],
            row["kind"],
            row["dtype"],
            row["tied_to"] or "",
            " x ".join(map(str, row["shape"])) or "scalar",
            *([_red(row["nan"]), _red(row["inf"])] if counted else []),
        ]
        for row in report["tensors"]
    ]
    console.print(make_table(columns, rows, left=4))
    for kind, total in report["totals"].items():
        console.print(
            f"{kind}: {count_noun(total['tensors'], 'tensor')}, "
            f"{count_noun(total['elements'], 'element')}, {format_bytes(total['bytes'])}"
        )
    for stack in report["layers"]:
        line = f"layers {stack['pattern']}: {stack['count']:,}"
        if (stack["first"], stack["last"]) != (0, stack["count"] - 1):
            line += f", numbered {stack['first']} to {stack['last']}"
        console.print(printable(line), soft_wrap=True)
    for key, value in report["metadata"].items():
        console.print(printable(f"metadata {key}: {value}"), soft_wrap=True)
    if counted:
        _print_verdict(report["nonfinite"])


def _print_verdict(names: Sequence[str]) -> None:
    console = output_console()
    if not names:
        console.print("All numbers are finite.")
        return
    line = Text.assemble(
        (f"{count_noun(len(names), 'tensor')} with NaN or infinity", "bold red"),
        ", first ",
        printable(names[0]),
    )
    console.print(line, soft_wrap=True)


def _red(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "dim")
