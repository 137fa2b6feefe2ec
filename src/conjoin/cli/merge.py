"""`conjoin merge`."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.arguments import parse_keep, parse_kinds, parse_parameters, parse_weights
from conjoin.cli.errors import IN_RECIPE
from conjoin.cli.model_argument import is_path, open_model
from conjoin.cli.output import (
    count_noun,
    error_console,
    format_bytes,
    output_console,
    print_json,
    printable,
)
from conjoin.errors import InputError, MethodError

if TYPE_CHECKING:
    from conjoin.checkpoints import Checkpoint
    from conjoin.recipes import Recipe

__all__ = ["DTypeName", "merge"]


class DTypeName(StrEnum):
    """Floating dtypes that a result may have."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def merge(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODELS",
            help="Two or more files, folders or references (org/name@main+org/lora), or one and "
            "its --base; or a recipe (.yml) and what to write.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="What to write: a file (.safetensors, .pt, ...) or a folder.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="See [bold]conjoin methods[/bold]. Default: mean; with weights, linear.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="The common ancestor, for methods that merge changes of it."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", "-w", help="One number per model: 0.3,0.7; or repeat it."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A parameter of the method: normalize=false."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="PATTERN=NUMBER",
            help="Take these tensors from one model unchanged, counted from 0: 'classifier.*=0'.",
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="PATTERN=KIND",
            help="Correct what tensors are: weight, statistic, counter or constant.",
        ),
    ] = None,
    dtype: Annotated[
        DTypeName | None, typer.Option("--dtype", help="Of the result. Default: as the models.")
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            "--vocabulary",
            metavar="union|base|MODEL",
            help="Match rows of embeddings by token: to the tokens of all models, or of one.",
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of torch files has the weights, say ema."),
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity pass.")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Of random methods.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there, when the new is complete.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted run has left.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Remove what an interrupted run has left, and begin.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="How many cores to use. Default: all."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1.")
    ] = "cpu",
    sync: Annotated[
        bool,
        typer.Option(
            "--sync/--no-sync",
            help="Wait until the result is on the disk before it appears (against power loss).",
        ),
    ] = True,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Note the SHA-256 of all inputs: seconds per GB.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Merge models of one structure, tensor by tensor; or do what a recipe says.

    Averages what networks have learned, where they were fine-tuned from one model or trained
    close together; independently trained networks need to be aligned first. Only weights go
    through the method: BatchNorm statistics are pooled, counters take their maximum, constants
    must agree. It streams, in memory that does not grow with the models.

    Writes a file or a folder, whole or not at all, with a record of how it was made
    (conjoin.json). Interrupted, it leaves a folder .partial beside it, to --resume from. Prints a
    line about the result.

    [dim]conjoin merge a.safetensors b.safetensors -o merged.safetensors[/dim]

    [dim]conjoin merge a.pt b.pt -w 0.3,0.7 --keep 'classifier.*=0' -o merged.safetensors[/dim]

    [dim]conjoin merge recipe.yml merged[/dim]

    [dim]torchrun --nproc-per-node 4 -m conjoin merge recipe.yml merged[/dim]
    """
    from conjoin.cli.merging import Run, carry_out_all

    if resume and restart:
        raise InputError("--resume goes on with what is there, and --restart removes it: give one")
    run = Run(
        overwrite=overwrite,
        resume=resume,
        restart=restart,
        workers=workers,
        device=device,
        sync=sync,
        sha256=sha256,
    )
    numbers = parse_weights(weights or [])
    if models[0].endswith((".yml", ".yaml")):
        in_recipe = {
            "--method": method,
            "--base": base,
            "--weights": weights,
            "--set": parameters,
            "--keep": keep,
            "--kind": kinds,
            "--dtype": dtype,
            "--vocabulary": vocabulary,
            "--entry": entry,
            "--allow-nonfinite": allow_nonfinite or None,
            "--seed": seed,
        }
        recipe = _recipe(Path(models[0]), in_recipe)
        ctx.meta[IN_RECIPE] = True
        target = _target(models[1:], out)
        summaries = carry_out_all(recipe, target, run, {})
    else:
        target = _named(out)
        alone = base is not None or method == "passthrough"
        _check_models(models, target, alone=alone, overwrite=overwrite)
        method = method or ("mean" if numbers is None else "linear")
        settings = _checked(method, parameters or [], numbers, base, len(models))
        kept = _checked_keep(parse_keep(keep or []), len(models))
        opened = _opened(models, entry)
        mapping = _as_recipe(
            models,
            method=method,
            base=base,
            entry=entry,
            weights=numbers,
            parameters=settings,
            keep=kept,
            kinds=parse_kinds(kinds or []),
            dtype=None if dtype is None else dtype.value,
            vocabulary=_model_named(vocabulary),
            nonfinite="allow" if allow_nonfinite else "refuse",
            seed=seed or 0,
        )
        summaries = carry_out_all(_from_options(mapping), target, run, opened)
    if as_json and summaries:
        print_json(summaries[0] if len(summaries) == 1 else summaries)
    elif not as_json:
        for summary in summaries:
            _print_summary(summary)


def _check_models(models: list[str], out: Path, *, alone: bool, overwrite: bool) -> None:
    """Raise if there is nothing to merge a model with, or the result cannot be written."""
    from conjoin.streaming import check_out

    check_out(out, overwrite=overwrite)
    if len(models) < 2 and not alone:
        raise InputError(
            "merge takes two or more models, or one and --base; only one is given. To write one "
            "with its adapter: --method passthrough"
        )


def _named(out: Path | None) -> Path:
    if out is None:
        raise InputError("say what to write: -o merged.safetensors, or -o FOLDER")
    return out


def _target(given: list[str], out: Path | None) -> Path:
    if len(given) + (out is not None) != 1:
        raise InputError(
            "a recipe is given together with what to write, and nothing else: conjoin merge "
            "recipe.yml OUT"
        )
    return out if out is not None else Path(given[0])


def _recipe(path: Path, options: Mapping[str, Any]) -> "Recipe":
    from conjoin.recipes import read_recipe

    if named := [name for name, value in options.items() if value is not None]:
        raise InputError(
            f"{', '.join(named)} cannot be given beside a recipe; write it into {path}"
        )
    return read_recipe(path)


def _from_options(mapping: Mapping[str, Any]) -> "Recipe":
    from conjoin.recipes import recipe_from

    return recipe_from(mapping)


def _as_recipe(
    models: list[str],
    *,
    base: str | None,
    entry: str | None,
    weights: Sequence[float] | None,
    **said: Any,
) -> dict[str, Any]:
    """What was said by options, as it would stand in a recipe."""
    chosen = {} if entry is None else {"entry": entry}
    listed = [
        {"model": model, **chosen, **({} if weights is None else {"weight": weights[k]})}
        for k, model in enumerate(models)
    ]
    ancestor = {} if base is None else {"base": {"model": base, **chosen}}
    return {**ancestor, "models": listed, **{key: value for key, value in said.items() if value}}


def _model_named(text: str | None) -> str | dict[str, int] | None:
    """A model by its name, or by its number, which may be 0."""
    return {"of": int(text)} if text is not None and text.isdecimal() else text


def _checked(
    method: str, texts: list[str], weights: Sequence[float] | None, base: str | None, count: int
) -> dict[str, Any]:
    """Give the parameters; what the method refuses is said here, in terms of options."""
    from conjoin.methods import find_method

    row = find_method(method)
    parameters = parse_parameters(texts, row.defaults)
    if weights is not None and len(weights) != count:
        raise MethodError(f"expected one weight per model, {count}; got {len(weights)}")
    row.check(parameters, base=base is not None, weights=weights is not None, models=count)
    row.rehearse(parameters, models=count, weights=weights)
    return parameters


def _checked_keep(keep: dict[str, int], count: int) -> dict[str, int]:
    for pattern, number in keep.items():
        if number >= count:
            raise InputError(
                f"--keep '{pattern}={number}' names no model; they are 0 to {count - 1}"
            )
    return keep


def _opened(models: list[str], entry: str | None) -> dict[str, "Checkpoint"]:
    """Open what is on this disk; references are opened when the plan has no mistake."""
    found = {}
    for model in filter(is_path, models):
        found[model] = open_model(model, entry)
        if note := found[model].metadata.get("conjoin.unwrapped"):
            _note(f"{model}: {note}")
    return found


def _print_summary(summary: Mapping[str, Any]) -> None:
    facts = (
        count_noun(summary["tensors"], "tensor"),
        format_bytes(summary["bytes"]),
        f"{summary['method']} of {count_noun(summary['models'], 'model')}",
        f"{summary['seconds']:.1f} s",
    )
    line = printable(f"{summary['out']}: {', '.join(facts)}")
    output_console().print(line, soft_wrap=True)
    for note in summary["notes"]:
        _note(note)


def _note(text: str) -> None:
    error_console().print(printable(f"Note: {text}"), soft_wrap=True)
