"""`conjoin align`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from itertools import pairwise
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
    LEARNED = "learned"


def align(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES",
            help="What is to be aligned: one file, or, without --to, two or more.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="REFERENCE", help="A file of the same structure."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The class of all, or a function that makes one: net.py:Net.",
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
        typer.Option(
            "--out",
            "-o",
            help="File to write the aligned model into: .safetensors, .pt; without --to, a folder "
            "for all of them, each under its name.",
        ),
    ] = None,
    save_order: Annotated[
        Path | None,
        typer.Option(
            "--save-order",
            metavar="FILE",
            help="Write the order: FILE.safetensors; without --to, a folder for NAME.safetensors.",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            "-m",
            help="What is matched. auto: activations, with data. learned: these, improved by "
            "gradient steps.",
        ),
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
    Without --to, all files are aligned to their common centre, in the order of the first one.

    Each row of the table is a group of dimensions that are reordered together: the cosine between
    weights of matched units before and after, the share of units that moved, and the share that
    are each other's best match. Where the last is low, an order is hardly better than others.

    Writes OUT, whole or not at all; without --to, one file for each model into the folder OUT.
    Nothing without --out or --save-order.

    [dim]conjoin align b.pth --to a.pth --model net.py:Net --data data.py:loaders -o b2.pt[/dim]

    [dim]conjoin align a.pth b.pth c.pth --model net.py:Net --inputs 3,32,32 -o aligned[/dim]

    [dim]conjoin align b.pth --to a.pth --symmetries order.safetensors -o b2.safetensors[/dim]
    """
    from conjoin.atomic import check_target
    from conjoin.checkpoints import open_checkpoint, save

    _check_sources(source, inputs, data, order)
    outs, orders = _targets(models, to, out), _order_targets(models, to, save_order)
    if both := set(outs) & set(orders):
        raise InputError(f"{min(both)} would be both a model and an order; give two folders")
    folders = [path.parent for path in (*outs, *orders) if to is None and not path.parent.exists()]
    for path in folders or (*outs, *orders):
        check_target(path, overwrite=overwrite)
    if order is not None:
        found = _of_files(models, to, order, entry, method, seed)
    elif source is not None:
        shapes = [parse_shape(text) for text in inputs or []]
        drawn = draw_inputs(shapes, 2, seed) if data is None else load_inputs(data, examples, seed)
        networks = [load_network(source, path, entry, seed, same_names=True) for path in models]
        reference = None if to is None else load_network(source, to, entry, seed, same_names=True)
        found = _of_networks(networks, reference, drawn, method, seed, given=data is not None)
    for folder in folders:
        folder.mkdir(exist_ok=True)
    for one, path in zip(found, orders, strict=bool(orders)):
        one.permutations.save(path)
    for one, model, path in zip(found, models, outs, strict=bool(outs)):
        save(one.apply(open_checkpoint(model, entry=entry)), path, overwrite=overwrite)
    reports = [
        _described(one, model, to, outs[n] if outs else None, orders[n] if orders else None)
        for n, (one, model) in enumerate(zip(found, models, strict=True))
    ]
    if as_json:
        print_json({"models": reports} if to is None else reports[0])
    else:
        for report in reports:
            _print(report, named=to is None)


def _targets(models: Sequence[Path], to: Path | None, out: Path | None) -> list[Path]:
    """Give the file of each aligned model; none if none is to be written."""
    if to is not None:
        if len(models) > 1:
            raise InputError(
                f"--to is for one file, and {len(models)} are given; align one at a time, or all "
                "to their common centre, without --to"
            )
        return [] if out is None else [out]
    if len(models) < 2:
        raise InputError(
            "align takes a reference, --to REFERENCE, or two or more files that are aligned to "
            "their common centre"
        )
    if out is None:
        return []
    return _inside(out, [model.name for model in models], "--out")


def _order_targets(models: Sequence[Path], to: Path | None, folder: Path | None) -> list[Path]:
    """Give the file of each order; none if none is to be written."""
    if folder is None:
        return []
    if to is None:
        return _inside(folder, [f"{model.stem}.safetensors" for model in models], "--save-order")
    if folder.suffix != ".safetensors":
        raise InputError(
            f"--save-order writes a safetensors file; call it {folder.stem}.safetensors"
        )
    return [folder]


def _inside(folder: Path, names: Sequence[str], option: str) -> list[Path]:
    if folder.suffix or folder.is_file():
        raise InputError(
            f"{option} {folder} is to be a folder, with a file for each model, as there is no --to"
        )
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise InputError(
            f"two files would be written as {folder / double[0]}; give the models names that differ"
        )
    return [folder / name for name in names]


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
    files: Sequence[Path],
    to: Path | None,
    order: Path,
    entry: str | None,
    method: Method,
    seed: int,
) -> "list[Alignment]":
    from conjoin.alignment import align as find
    from conjoin.checkpoints import open_checkpoint
    from conjoin.symmetry import Permutations

    if method not in (Method.AUTO, Method.WEIGHTS):
        raise InputError(f"--method {method} runs the networks; name their class with --model")
    models = [open_checkpoint(path, entry=entry) for path in files]
    layout = Permutations.load(order).layout
    if to is None:
        return find(models, symmetries=layout, seed=seed)
    reference = open_checkpoint(to, entry=entry)
    return [find(models[0], reference, symmetries=layout, seed=seed)]


def _of_networks(
    networks: "list[nn.Module]",
    to: "nn.Module | None",
    drawn: "Inputs",
    method: Method,
    seed: int,
    *,
    given: bool,
) -> "list[Alignment]":
    from conjoin.alignment import align as find
    from conjoin.batches import map_inputs

    if method not in (Method.AUTO, Method.WEIGHTS) and not given:
        raise InputError(f"--method {method} compares activations on real examples; give --data")
    few = map_inputs(drawn, lambda tensor: tensor[:2])
    layout = find_groups(networks[0] if to is None else to, few, seed).layout
    data = None if not given or method == Method.WEIGHTS else list(_batches(drawn, method))
    how = str(method)
    if to is None:
        return find(networks, symmetries=layout, data=data, method=how, seed=seed)
    return [find(networks[0], to, symmetries=layout, data=data, method=how, seed=seed)]


def _batches(inputs: "Inputs", method: Method) -> "Iterator[Inputs]":
    from conjoin.batches import map_inputs, size_of

    size = size_of(inputs)
    # Of about the same size each: one example alone would have no BatchNorm statistics. To learn,
    # some are held out.
    count = max(-(-size // BATCH), 4 if method == Method.LEARNED else 1)
    edges = [size * number // count for number in range(count + 1)]
    for start, end in pairwise(edges):
        yield map_inputs(inputs, lambda tensor, start=start, end=end: tensor[start:end])


def _described(
    found: "Alignment", model: Path, to: Path | None, out: Path | None, order: Path | None
) -> dict[str, Any]:
    return {
        "model": str(model),
        "to": None if to is None else str(to),
        "groups": [asdict(group) for group in found.groups],
        "before": found.before,
        "objective": found.objective,
        "starts": [{"start": start, "objective": value} for start, value in found.starts],
        "seconds": round(found.seconds, 3),
        "out": None if out is None else str(out),
        "order": None if order is None else str(order),
    }


def _print(report: Mapping[str, Any], *, named: bool) -> None:
    console = output_console()
    if named:
        console.print(printable(f"{report['model']}:"), soft_wrap=True)
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
    for line in [*lines, ""] if named else lines:
        console.print(printable(line), soft_wrap=True)
