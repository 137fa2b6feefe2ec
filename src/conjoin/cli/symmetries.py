"""`conjoin symmetries`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from conjoin.cli.example_inputs import describe_inputs, draw_inputs, load_inputs, parse_shape
from conjoin.cli.output import (
    count_noun,
    error_console,
    format_number,
    make_table,
    output_console,
    print_json,
    printable,
)
from conjoin.cli.traced_models import find_groups, load_network
from conjoin.errors import InputError

if TYPE_CHECKING:
    from conjoin.symmetry import Layout, Symmetries
    from conjoin.symmetry.groups import Part

__all__ = ["symmetries"]

SHOWN = 3
"""How many tensors of a group are shown without --all."""


def symmetries(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A class, or a function that makes the network: net.py:Net or "
            "package.module:callable.",
            show_default=False,
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--inputs",
            metavar="SHAPE",
            help="Shape of one example: 3,32,32; random numbers are drawn. 128:5000 is 128 "
            "numbers of tokens below 5000. Repeat it for several inputs; by name: mask=128:2.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SPEC",
            help="Real examples in their place: a function without arguments that gives a loader, "
            "or loaders as for [bold]conjoin compare[/bold]: data.py:loaders.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="A file of its weights. Without it, they are random."),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of a torch file has the weights, say ema."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=2, help="How many examples.")] = 2,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of everything that is drawn at random.")
    ] = 0,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show every tensor of a group, not the first three.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Write a random reordering of all groups: FILE.safetensors.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Find what can be reordered in a network without changing what it computes, and prove it.

    Hidden units have no order: channels, neurons, heads. Each row of the table is a group of
    dimensions that must be reordered together, written as tensor:dimension. A group with copies,
    such as x4, has an order of its own in each of them, as units have in each head of an attention.

    Proven means: the outputs stayed the same when all groups were reordered at random, in float64
    and eval mode. What is not proven is pinned, with the reason: it is never reordered. Your own
    weights are the better proof, so give --weights if there are some.

    Writes nothing without --save. The exit code is 0 also if nothing can be reordered.

    [dim]conjoin symmetries net.py:Net --inputs 3,32,32[/dim]

    [dim]conjoin symmetries net.py:Net --data data.py:loaders --weights a.pth --all[/dim]

    [dim]conjoin symmetries gpt.py:small --inputs 128:50257 --save order.safetensors[/dim]
    """
    if (data is None) == (not inputs):
        raise InputError(
            "symmetries takes examples of what the model is called with, in one of two ways: "
            "--inputs 3,32,32 or --data data.py:loaders"
        )
    _check_out(out, overwrite=overwrite)
    shapes = [parse_shape(text) for text in inputs or []]
    network = load_network(model, weights, entry, seed)
    examples = draw_inputs(shapes, batch, seed) if data is None else load_inputs(data, batch, seed)
    found = find_groups(network, examples, seed)
    report = {
        "model": model,
        "weights": None if weights is None else str(weights),
        "inputs": describe_inputs(examples),
        "seed": seed,
        **_describe(found),
        "saved": None if out is None else _save(found, out, seed),
    }
    print_json(report) if as_json else _print(report, SHOWN if not show_all else None)


def _check_out(out: Path | None, *, overwrite: bool) -> None:
    """Raise before any work is done for a file that cannot be written."""
    from conjoin.atomic import check_target

    if out is None:
        return
    if out.suffix != ".safetensors":
        raise InputError(f"--save writes a safetensors file; call it {out.stem}.safetensors")
    check_target(out, overwrite=overwrite)


def _save(found: "Symmetries", out: Path, seed: int) -> str:
    import torch

    if not found.groups:
        raise InputError(
            f"nothing in this network can be reordered, and {out} was not written; see why without "
            "--save"
        )
    found.sample(torch.Generator().manual_seed(seed)).save(out)
    return str(out)


def _describe(found: "Symmetries") -> dict[str, Any]:
    proven = [
        {
            "name": group.name,
            "size": group.size,
            "within": list(group.within),
            "copies": list(group.copies),
            "members": [list(member) for member in group.members],
            "proven": True,
        }
        for group in found.groups.values()
    ]
    guilty = [_describe_guilty(name, found.layout) for name in found.proof.guilty]
    return {
        "groups": [*proven, *guilty],
        "pinned": {reason: list(names) for reason, names in found.layout.pinned.items()},
        "unknown": dict(found.unknown),
        "parameters": found.parameters,
        "movable": found.movable,
        "share": found.movable / found.parameters if found.parameters else 0.0,
        "error": found.proof.error,
        "seconds": round(found.seconds, 3),
    }


def _describe_guilty(name: str, layout: "Layout") -> dict[str, Any]:
    """Describe a group that has been pinned by the proof: the layout knows its atoms only."""
    places = [
        (tensor, dim, part.size)
        for tensor, parts in layout.tensors.items()
        for dim, whole in enumerate(parts)
        for part in _atoms(whole)
        if part.name == name
    ]
    return {
        "name": name,
        "size": places[0][2],
        "within": [],
        "copies": [],
        "members": list(map(list, dict.fromkeys((tensor, dim) for tensor, dim, _ in places))),
        "proven": False,
    }


def _atoms(part: "Part") -> Iterable["Part"]:
    if part.kind == "atom":
        yield part
    for inner in part.parts:
        yield from _atoms(inner)


def _print(report: Mapping[str, Any], shown: int | None) -> None:
    console = output_console()
    groups, pinned = report["groups"], report["pinned"]
    if groups:
        columns = ["group", "size", "copies", "proof", "tensors and dimensions"]
        rows = [_row(group, shown) for group in groups]
        console.print(make_table(columns, rows, left=len(columns)), "")
    if pinned:
        reasons = [(reason, _shortened(names, shown)) for reason, names in pinned.items()]
        console.print(make_table(["pinned, since", "tensors"], reasons, left=2), "")
    proven = [group for group in groups if group["proven"]]
    _say(
        f"{count_noun(len(proven), 'group')}; {report['movable']:,} of "
        f"{count_noun(report['parameters'], 'parameter')} can be reordered "
        f"({100 * report['share']:.1f} %)."
    )
    for operation, count in report["unknown"].items():
        times = "once" if count == 1 else f"{count:,} times"
        _say(f"No rule for {operation}, found {times}; what it touches is pinned.")
    if proven:
        _say(
            "Proof: all groups reordered at once, largest relative error of the outputs "
            f"{format_number(report['error'])} (float64)."
        )
    _say(f"Found in {report['seconds']:.1f} s.")
    if report["saved"]:
        _say(f"A random reordering: {report['saved']}")
    if len(proven) < len(groups):
        line = (
            "Note: a group whose proof failed is an error of conjoin's rules. It is pinned, and "
            "the other groups are proven without it. Please report it, with the model"
        )
        error_console().print(printable(line), soft_wrap=True)


def _row(group: Mapping[str, Any], shown: int | None) -> list[str | Text]:
    members = [f"{tensor}:{dim}" for tensor, dim in group["members"]]
    return [
        group["name"],
        Text(f"{group['size']:,}", justify="right"),
        " ".join(f"x{count:,}" for count in group["copies"]),
        "proven" if group["proven"] else Text("failed, pinned", style="bold red"),
        _shortened(members, shown),
    ]


def _shortened(names: Sequence[str], shown: int | None) -> str:
    left = 0 if shown is None else len(names) - shown
    more = f" + {left:,} more" if left > 0 else ""
    return ", ".join(names[:shown]) + more


def _say(line: str) -> None:
    output_console().print(printable(line), soft_wrap=True)
