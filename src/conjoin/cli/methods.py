"""`conjoin methods`."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.output import make_table, output_console, print_json, printable

if TYPE_CHECKING:
    from conjoin.methods import Method

__all__ = ["methods"]


def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method, in full.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods of merging, with their formulas and parameters.

    Look here for what --method and --set of [bold]conjoin merge[/bold] can be. Writes nothing.

    [dim]conjoin methods[/dim]

    [dim]conjoin methods linear[/dim]
    """
    from conjoin.methods import METHODS, find_method

    chosen = list(METHODS.values()) if name is None else [find_method(name)]
    rows = [_describe(method) for method in chosen]
    if as_json:
        print_json(rows if name is None else rows[0])
    elif name is None:
        _print_table(rows)
    else:
        _print_one(rows[0])


def _describe(method: "Method") -> dict[str, Any]:
    return {
        "name": method.name,
        "formula": method.formula,
        "parameters": {
            key: None if default is inspect.Parameter.empty else default
            for key, default in method.defaults.items()
        },
        "required": [k for k, v in method.defaults.items() if v is inspect.Parameter.empty],
        "needs": sorted(need.value for need in method.needs),
        "random": method.is_random,
        "paper": method.paper,
        "description": inspect.getdoc(method.function) or "",
    }


def _parameters(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} (required)" if key in row["required"] else f"{key}={str(default).lower()}"
        for key, default in row["parameters"].items()
    )


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = ["method", "formula", "parameters", "needs", "paper"]
    cells = [
        [row["name"], row["formula"], _parameters(row), ", ".join(row["needs"]), row["paper"]]
        for row in rows
    ]
    output_console().print(make_table(columns, cells, left=5))


def _print_one(row: dict[str, Any]) -> None:
    facts = {
        "formula": row["formula"],
        "parameters": _parameters(row),
        "needs": ", ".join(row["needs"]),
        "paper": row["paper"],
    }
    lines = [row["name"], *(f"  {key}: {value}" for key, value in facts.items() if value), ""]
    for line in [*lines, *row["description"].splitlines()]:
        output_console().print(printable(line), soft_wrap=True)
