"""`conjoin plan`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.errors import IN_RECIPE
from conjoin.cli.output import (
    count_noun,
    error_console,
    format_bytes,
    make_table,
    output_console,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from conjoin.recipes import Plan

__all__ = ["plan", "print_notes", "summarize"]


def plan(
    ctx: typer.Context,
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="YAML of conjoin or of mergekit.", show_default=False
        ),
    ],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor: from what and by what.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole plan as JSON, one record per tensor.")
    ] = False,
) -> None:
    """Show what a recipe comes to, from headers alone: nothing is merged or written.

    Says what will be read, computed and written, and every mistake in the recipe at once, each
    with its line. Look here before a long run; a run does the same first. No model is downloaded:
    of one on the Hub, the headers are read there.

    Writes nothing.

    [dim]conjoin plan recipe.yml[/dim]

    [dim]conjoin plan recipe.yml --json | jq '.records[0]'[/dim]
    """
    from conjoin.recipes import make_plan, read_recipe

    ctx.meta[IN_RECIPE] = True
    made = make_plan(read_recipe(recipe), headers_only=True)
    if as_json:
        print_json({**summarize(made), **made.describe(), "notes": list(made.notes)})
        return
    _print(made)
    if tensors:
        _print_tensors(made)
    print_notes(made.notes)


def summarize(made: "Plan") -> dict[str, Any]:
    """Give the sizes of a plan."""
    specs = [spec for spec in made.merged.specs.values() if spec.alias_of is None]
    return {
        "hash": made.hash,
        "method": made.recipe.method.name,
        "models": [source.reference for source in made.recipe.sources],
        "base": None if made.recipe.base is None else made.recipe.base.reference,
        "tensors": len(made.merged.specs),
        "elements": sum(spec.numel for spec in specs),
        "read_bytes": made.read_bytes,
        "passes": made.passes,
        "write_bytes": made.layout.size,
        "files": [file.name for file in made.layout.files] + sorted(made.carried),
    }


def _print(made: "Plan") -> None:
    facts, console = summarize(made), output_console()
    passes = "" if facts["passes"] == 1 else f", {facts['passes']} times or more"
    files = facts["files"]
    shown = ", ".join(files[:4]) + (", ..." if len(files) > 4 else "")
    rows = {
        "method": f"{facts['method']}: {made.recipe.method.formula}",
        "models": ", ".join(facts["models"]),
        "base": facts["base"],
        "layers": _layers(made),
        "result": f"{count_noun(facts['tensors'], 'tensor')}, {facts['elements']:,} elements, "
        + ", ".join(f"{count} {rule}" for rule, count in _rules(made).items()),
        "reads": f"{format_bytes(facts['read_bytes'])}{passes}",
        "writes": f"{format_bytes(facts['write_bytes'])} in {count_noun(len(files), 'file')}: "
        + shown,
    }
    for key, value in rows.items():
        if value:
            console.print(printable(f"{key:8}{value}"), soft_wrap=True)


def _rules(made: "Plan") -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in made.records():
        rule = "tied" if record.tied_to else record.method or record.rule
        counts[rule] = counts.get(rule, 0) + 1
    return counts


def _layers(made: "Plan") -> str:
    from conjoin.recipes import find_layers

    stacks = find_layers(made.merged.specs, None).stacks
    return ", ".join(f"{stack.pattern} ({len(stack)})" for stack in stacks)


def _print_tensors(made: "Plan") -> None:
    rows = [
        [
            record.name,
            record.tied_to or record.method or record.rule,
            record.dtype,
            " x ".join(map(str, record.shape)) or "scalar",
            _weights(record.weights),
            _parameters(record.parameters),
            record.file,
        ]
        for record in made.records()
    ]
    columns = ["tensor", "made by", "dtype", "shape", "weights", "parameters", "file"]
    output_console().print(make_table(columns, rows, left=7))


def _weights(weights: Sequence[float] | None) -> str:
    return "" if weights is None else ", ".join(f"{weight:.4g}" for weight in weights)


def _parameters(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={str(value).lower()}" for key, value in parameters.items())


def print_notes(notes: Sequence[str]) -> None:
    """Print what a user should know, on stderr."""
    for note in notes:
        error_console().print(printable(f"Note: {note}"), soft_wrap=True)
