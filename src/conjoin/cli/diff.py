"""`conjoin diff`."""

import dataclasses
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.errors import TROUBLE
from conjoin.cli.model_argument import open_model
from conjoin.cli.output import (
    format_number,
    make_table,
    output_console,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from conjoin.measure import Distance, StructureDifference

__all__ = ["Order", "diff"]


class Order(StrEnum):
    """Orders of the rows."""

    FILE = "file"
    DISTANCE = "distance"


def diff(
    ctx: typer.Context,
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="A file, folder, or reference: org/name@main+org/lora."),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="A row per layer instead of one per tensor.")
    ] = False,
    sort: Annotated[
        Order, typer.Option("--sort", help="As in the first file, or the farthest first.")
    ] = Order.FILE,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of torch files has the weights, say ema."),
    ] = None,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit with 1 if the files differ, with 2 on any error."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how far apart two models are, tensor by tensor and layer by layer.

    Shows where fine-tuning, or an adapter, has moved a network, and whether two models have the
    same weights.
    Relative is the distance divided by the norm of A; cosine is 1 for equal directions. It is
    computed in float64, in pieces. Names in one file only, other shapes and other dtypes are
    listed below the table.

    Writes nothing. The exit code is 0 when the files could be compared; see --exit-code.

    [dim]conjoin diff base.safetensors tuned.safetensors --layers --sort distance[/dim]

    [dim]conjoin diff base base+lora --layers[/dim]

    [dim]conjoin diff a.safetensors b.pt --exit-code > /dev/null && echo same[/dim]
    """
    if exit_code:
        ctx.meta[TROUBLE] = 2
    from conjoin.cli.progress import tracked
    from conjoin.measure import compare_structure, distances

    a, b = open_model(first, entry), open_model(second, entry)
    structure = compare_structure(a, b)
    with tracked(a) as counted:
        rows = distances(counted, b, only_shared=True)
    different = bool(structure) or any(row.differing for row in rows)
    report = _describe(rows, structure, sort) | {"different": different}
    print_json(report) if as_json else _print(report, layers=layers)
    if exit_code and different:
        raise typer.Exit(1)


def _describe(
    rows: "Sequence[Distance]", structure: "StructureDifference", order: Order
) -> dict[str, Any]:
    from conjoin.measure import by_kind, by_layer

    return {
        "tensors": [_fields(row) for row in _sorted(rows, order)],
        "layers": [_fields(row) for row in _sorted(by_layer(rows), order)],
        "totals": [_fields(row) for row in by_kind(rows).values()],
        "only_first": list(structure.only_first),
        "only_second": list(structure.only_second),
        "shapes": {name: list(map(list, pair)) for name, pair in structure.shapes.items()},
        "dtypes": {
            name: [str(dtype).removeprefix("torch.") for dtype in pair]
            for name, pair in structure.dtypes.items()
        },
    }


def _sorted(rows: "Sequence[Distance]", order: Order) -> "list[Distance]":
    if order is Order.FILE:
        return list(rows)
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row.l2) else -row.l2)


def _fields(row: "Distance") -> dict[str, Any]:
    return dataclasses.asdict(row) | {"kind": row.kind.value}


def _print(report: dict[str, Any], *, layers: bool) -> None:
    console = output_console()
    columns = ["layer" if layers else "name", "kind", "L2", "relative", "cosine", "max |a-b|"]
    rows = [_row(row) for row in report["layers" if layers else "tensors"]]
    if rows:
        rows += [_row(row) for row in report["totals"]]
        console.print(make_table([*columns, "differing"], rows, left=2))
    for key, words in (("only_first", "only in A"), ("only_second", "only in B")):
        for name in report[key]:
            console.print(printable(f"{words}: {name}"), soft_wrap=True)
    for key in ("shapes", "dtypes"):
        for name, (left, right) in report[key].items():
            line = f"{key.removesuffix('s')} differs: {name}: {left} in A, {right} in B"
            console.print(printable(line), soft_wrap=True)
    if not report["different"]:
        console.print("The files have the same tensors.")
    elif not rows:
        console.print("No tensor is in both files with one shape.")


def _row(row: dict[str, Any]) -> list[str]:
    numbers = [format_number(row[key]) for key in ("l2", "relative", "cosine", "max_abs")]
    differing = f"{row['differing']:,} of {row['count']:,}"
    return [row["name"] or "(top level)", row["kind"], *numbers, differing]
