"""`conjoin merge`."""

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli.arguments import parse_keep, parse_kinds, parse_parameters, parse_weights
from conjoin.cli.output import (
    count_noun,
    error_console,
    format_bytes,
    output_console,
    print_json,
    printable,
)
from conjoin.errors import InputError

if TYPE_CHECKING:
    from conjoin.checkpoints import Checkpoint

__all__ = ["DTypeName", "merge"]


class DTypeName(StrEnum):
    """Floating dtypes that a result may have."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def merge(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODELS", help="Two or more files.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="File to write: .safetensors, .pt, ...", show_default=False
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="See [bold]conjoin methods[/bold]. Default: mean; with weights, linear.",
        ),
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
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of torch files has the weights, say ema."),
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity pass.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Merge models of one structure into one file, tensor by tensor.

    Averages what networks have learned, where they were fine-tuned from one model or trained
    close together; independently trained networks need to be aligned first. Only weights go
    through the method: BatchNorm statistics are pooled, counters take their maximum, constants
    must agree. It streams, so that models larger than memory work.

    Writes OUT, whole or not at all. Prints a line about it.

    [dim]conjoin merge a.safetensors b.safetensors -o merged.safetensors[/dim]

    [dim]conjoin merge a.pt b.pt -w 0.3,0.7 --keep 'classifier.*=0' -o merged.safetensors[/dim]
    """
    from conjoin.atomic import check_target
    from conjoin.checkpoints import save
    from conjoin.cli.progress import tracked

    began = time.monotonic()
    check_target(out, overwrite=overwrite)
    if len(models) < 2:
        raise InputError("merge takes two or more models; only one is given")
    numbers = parse_weights(weights or [])
    method = method or ("mean" if numbers is None else "linear")
    merged = _merged(
        models,
        entry,
        method=method,
        weights=numbers,
        parameters=_parameters(method, parameters or []),
        keep=parse_keep(keep or []),
        kinds=parse_kinds(kinds or []),
        dtype=dtype,
        allow_nonfinite=allow_nonfinite,
    )
    with tracked(merged) as checkpoint:
        save(checkpoint, out, overwrite=overwrite)
    summary = _summarize(merged, out, method, len(models), time.monotonic() - began)
    print_json(summary) if as_json else _print_summary(summary)


def _parameters(method: str, texts: list[str]) -> dict[str, Any]:
    from conjoin.methods import find_method

    return parse_parameters(texts, find_method(method).defaults)


def _merged(
    models: list[Path], entry: str | None, *, dtype: DTypeName | None, **arguments: Any
) -> "Checkpoint":
    import torch

    import conjoin
    from conjoin.checkpoints import open_checkpoint

    opened = [open_checkpoint(path, entry=entry) for path in models]
    for path, checkpoint in zip(models, opened, strict=True):
        if note := checkpoint.metadata.get("conjoin.unwrapped"):
            _note(f"{path}: {note}")
    chosen = None if dtype is None else getattr(torch, dtype.value)
    merged: Checkpoint = conjoin.merge(opened, dtype=chosen, **arguments)
    return merged


def _summarize(
    merged: "Checkpoint", out: Path, method: str, models: int, seconds: float
) -> dict[str, Any]:
    own = [spec for spec in merged.specs.values() if spec.alias_of is None]
    return {
        "out": str(out),
        "method": method,
        "models": models,
        "tensors": len(merged),
        "bytes": sum(spec.nbytes for spec in own),
        "file_bytes": out.stat().st_size,
        "seconds": round(seconds, 3),
        "needs_reestimation": "conjoin.statistics" in merged.metadata,
    }


def _print_summary(summary: Mapping[str, Any]) -> None:
    facts = (
        count_noun(summary["tensors"], "tensor"),
        format_bytes(summary["bytes"]),
        f"{summary['method']} of {count_noun(summary['models'], 'model')}",
        f"{summary['seconds']:.1f} s",
    )
    line = printable(f"{summary['out']}: {', '.join(facts)}")
    output_console().print(line, soft_wrap=True)
    if summary["needs_reestimation"]:
        _note(
            "the BatchNorm statistics are pooled from the models and do not fit the merged "
            "weights; load the result and re-estimate them on training data before use: "
            "conjoin.reestimate_batchnorm(model, loaders)"
        )


def _note(text: str) -> None:
    error_console().print(printable(f"Note: {text}"), soft_wrap=True)
