"""`conjoin align`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.example_inputs import draw_inputs, load_inputs, parse_shape
from conjoin.cli.output import (
    count_noun,
    format_number,
    make_table,
    output_console,
    print_json,
    printable,
)
from conjoin.cli.traced_models import find_groups, load_network
from conjoin.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from conjoin.alignment import Alignment
    from conjoin.batches import Inputs

__all__ = ["Method", "align"]

BATCH = 250
"""Examples that are run at a time."""


class Method(StrEnum):
    """What is matched."""

    AUTO = "auto"
    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    MIXED = "mixed"


def align(
    model: Annotated[
        Path, typer.Argument(metavar="FILE", help="What is to be aligned.", show_default=False)
    ],
    to: Annotated[
        Path,
        typer.Option("--to", metavar="REFERENCE", help="A file of the same structure."),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The class of both, or a function that makes one: net.py:Net.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--inputs",
            metavar="SHAPE",
            help="Shape of one example, as for [bold]conjoin symmetries[/bold]: 3,32,32.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="Real examples, on which activations are compared: a function that gives a "
            "loader, or loaders as for [bold]conjoin compare[/bold]: data.py:loaders.",
        ),
    ] = None,
    order: Annotated[
        Path | None,
        typer.Option(
            "--symmetries",
            metavar="FILE",
            help="Saved permutations of this structure, in the place of a model: what may be "
            "reordered is taken from them.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write the aligned model into: .safetensors, .pt"),
    ] = None,
    save_order: Annotated[
        Path | None,
        typer.Option("--save-order", metavar="FILE", help="Write the order: FILE.safetensors."),
    ] = None,
    method: Annotated[
        Method,
        typer.Option("--method", "-m", help="What is matched. auto: activations, with data."),
    ] = Method.AUTO,
    examples: Annotated[
        int, typer.Option("--examples", min=2, help="How many activations are compared on.")
    ] = 1000,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of torch files has the weights, say ema."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of everything that is drawn at random.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Reorder the hidden units of a network so that they mean what those of a reference mean.

    Networks that were trained apart have learned their units in orders of their own, and cannot be
    averaged before one is brought into the other's. The aligned network computes what it computed.

    Each row of the table is a group of dimensions that are reordered together: the cosine between
    weights of matched units before and after, the share of units that moved, and the share that
    are each other's best match. Where that is low, an order is hardly better than others.

    Writes OUT, whole or not at all; nothing without --out or --save-order.

    [dim]conjoin align b.pth --to a.pth --model net.py:Net --data data.py:loaders -o b2.pt[/dim]

    [dim]conjoin align b.pth --to a.pth --model net.py:Net --inputs 3,32,32 -o b2.pt[/dim]

    [dim]conjoin align b.pth --to a.pth --symmetries order.safetensors -o b2.safetensors[/dim]
    """
    from conjoin.atomic import check_target
    from conjoin.checkpoints import open_checkpoint, save

    _check_sources(source, inputs, data, order)
    if save_order is not None and save_order.suffix != ".safetensors":
        raise InputError(
            f"--save-order writes a safetensors file; call it {save_order.stem}.safetensors"
        )
    for path in (out, save_order):
        if path is not None:
            check_target(path, overwrite=overwrite)
    if order is not None:
        found = _of_files(model, to, order, entry, method, seed)
    elif source is not None:
        networks = [load_network(source, path, entry, seed) for path in (model, to)]
        shapes = [parse_shape(text) for text in inputs or []]
        drawn = draw_inputs(shapes, 2, seed) if data is None else load_inputs(data, examples, seed)
        found = _of_networks(networks, drawn, method, seed, given=data is not None)
    if save_order is not None:
        found.permutations.save(save_order)
    if out is not None:
        save(found.apply(open_checkpoint(model, entry=entry)), out, overwrite=overwrite)
    report = _described(found, model, to, out, save_order)
    print_json(report) if as_json else _print(report)


def _check_sources(
    source: str | None, inputs: list[str] | None, data: str | None, order: Path | None
) -> None:
    if (source is None) == (order is None):
        raise InputError(
            "align takes either --model net.py:Net, to find out what may be reordered, or "
            "--symmetries FILE, which says so"
        )
    if source is None and (inputs or data):
        raise InputError("--inputs and --data are for a model that runs: name it with --model")
    if source is not None and (data is None) == (not inputs):
        raise InputError(
            "align runs the model on examples, given in one of two ways: --inputs 3,32,32 or "
            "--data data.py:loaders"
        )


def _of_files(
    model: Path, to: Path, order: Path, entry: str | None, method: Method, seed: int
) -> "Alignment":
    from conjoin.alignment import align as find
    from conjoin.checkpoints import open_checkpoint
    from conjoin.symmetry import Permutations

    if method not in (Method.AUTO, Method.WEIGHTS):
        raise InputError(f"--method {method} runs the networks; name their class with --model")
    one, other = (open_checkpoint(path, entry=entry) for path in (model, to))
    return find(one, other, symmetries=Permutations.load(order).layout, seed=seed)


def _of_networks(
    networks: "list[nn.Module]", drawn: "Inputs", method: Method, seed: int, *, given: bool
) -> "Alignment":
    from conjoin.alignment import align as find
    from conjoin.batches import map_inputs

    if method not in (Method.AUTO, Method.WEIGHTS) and not given:
        raise InputError(f"--method {method} compares activations on real examples; give --data")
    model, reference = networks
    few = map_inputs(drawn, lambda tensor: tensor[:2])
    layout = find_groups(reference, few, seed).layout
    data = None if not given or method == Method.WEIGHTS else list(_batches(drawn))
    return find(model, reference, symmetries=layout, data=data, method=str(method), seed=seed)


def _batches(inputs: "Inputs") -> "Iterator[Inputs]":
    from conjoin.batches import map_inputs, size_of

    for start in range(0, size_of(inputs), BATCH):
        yield map_inputs(inputs, lambda tensor, start=start: tensor[start : start + BATCH])


def _described(
    found: "Alignment", model: Path, to: Path, out: Path | None, order: Path | None
) -> dict[str, Any]:
    return {
        "model": str(model),
        "to": str(to),
        "groups": [asdict(group) for group in found.groups],
        "before": found.before,
        "objective": found.objective,
        "starts": [{"start": start, "objective": value} for start, value in found.starts],
        "seconds": round(found.seconds, 3),
        "out": None if out is None else str(out),
        "order": None if order is None else str(order),
    }


def _print(report: Mapping[str, Any]) -> None:
    console = output_console()
    columns = ["group", "size", "cosine before", "after", "moved", "mutual"]
    rows = [
        [
            group["name"],
            f"{group['size']:,}",
            f"{group['before']:.3f}",
            f"{group['after']:.3f}",
            f"{100 * group['moved']:.0f} %",
            f"{100 * group['mutual']:.0f} %",
        ]
        for group in report["groups"]
    ]
    if rows:
        console.print(make_table(columns, rows, left=1), "")
    best = report["starts"][0]["start"]
    lines = [
        f"{count_noun(len(rows), 'group')}; mean cosine of layers "
        f"{format_number(report['before'])} before, {format_number(report['objective'])} after "
        f"({best} start, {report['seconds']:.1f} s)."
    ]
    if not rows:
        lines.append("Nothing in this network can be reordered: conjoin symmetries says why.")
    lines += [f"The aligned model: {report['out']}"] if report["out"] else []
    lines += [f"The order: {report['order']}"] if report["order"] else []
    for line in lines:
        console.print(printable(line), soft_wrap=True)
