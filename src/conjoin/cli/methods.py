"""`conjoin methods`."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.output import count_noun, make_table, output_console, print_json, printable

if TYPE_CHECKING:
    from conjoin.methods import Method
    from conjoin.recipes.value_form import ValueForm

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
        _print_one(rows[0], chosen[0])


def _describe(method: "Method") -> dict[str, Any]:
    return {
        "name": method.name,
        "formula": method.formula,
        "parameters": {
            key: None if default is inspect.Parameter.empty else default
            for key, default in method.defaults.items()
        },
        "required": [k for k, v in method.defaults.items() if v is inspect.Parameter.empty],
        "accepts": {key: form.scalar.schema() for key, form in _forms(method).items()},
        "per_model": sorted(method.per_model),
        "needs": sorted(need.value for need in method.needs),
        "optional": sorted(need.value for need in method.optional),
        "models": method.models,
        "least": method.least,
        "per_task": method.per_task,
        "random": method.is_random,
        "paper": method.paper,
        "description": inspect.getdoc(method.function) or "",
    }


def _forms(method: "Method") -> "dict[str, ValueForm]":
    from conjoin.recipes.parameters import parameter_forms

    return {key: form for key, form in parameter_forms(method).items() if key in method.defaults}


def _parameters(row: dict[str, Any]) -> list[str]:
    return [
        f"{key} (required)" if key in row["required"] else f"{key}={str(default).lower()}"
        for key, default in row["parameters"].items()
    ]


def _needs(row: dict[str, Any]) -> str:
    """Say what a method gets besides the models, be it needed or not."""
    return ", ".join([*row["needs"], *(f"{need} (optional)" for need in row["optional"])])


def _merges(row: dict[str, Any]) -> str:
    """Say how many models a method merges; nothing if it is any number."""
    if row["models"] is not None:
        return f"exactly {count_noun(row['models'], 'model')}"
    return "" if row["least"] == 1 else f"at least {count_noun(row['least'], 'model')}"


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = ["method", "formula", "parameters", "needs", "paper"]
    cells = [
        [
            row["name"],
            row["formula"],
            ", ".join(_parameters(row)),
            _needs(row),
            row["paper"],
        ]
        for row in rows
    ]
    output_console().print(make_table(columns, cells, left=5))


def _print_one(row: dict[str, Any], method: "Method") -> None:
    facts = {
        "formula": row["formula"],
        "merges": _merges(row),
        "gives": "one result for each model, chosen by task" if row["per_task"] else "",
        "needs": _needs(row),
        "paper": row["paper"],
    }
    lines = [row["name"], *(f"  {key}: {value}" for key, value in facts.items() if value)]
    lines += [f"  {text}" for text in _described_parameters(row, method)]
    for line in [*lines, "", *row["description"].splitlines()]:
        output_console().print(printable(line), soft_wrap=True)


def _described_parameters(row: dict[str, Any], method: "Method") -> list[str]:
    """Say of every parameter what may stand there."""
    shown = _parameters(row)
    width = max(map(len, shown), default=0)
    also = ", or one per model (in a recipe, beside the model)"
    return [
        f"{text:{width}}  {form.scalar.expected}" + (also if key in method.per_model else "")
        for text, (key, form) in zip(shown, _forms(method).items(), strict=True)
    ]
