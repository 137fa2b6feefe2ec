"""`conjoin digits`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.output import error_console, printable, report_console
from conjoin.errors import ConjoinError, InputError

__all__ = ["Device", "Precision", "PresetName", "digits"]


class PresetName(StrEnum):
    """Sizes of the experiment."""

    QUICK = "quick"
    SMALL = "small"
    STANDARD = "standard"
    THESIS = "thesis"


class Device(StrEnum):
    """Where networks are trained."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """In which numbers networks are trained."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def digits(
    ctx: typer.Context,
    preset: Annotated[
        PresetName,
        typer.Option(
            "--preset",
            help="The size: quick (embedded data, minutes), small and standard (real MNIST), "
            "thesis (MNIST and SVHN, for a GPU).",
        ),
    ] = PresetName.QUICK,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many repetitions.")] = 1,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="The first seed.")] = 0,
    mnist: Annotated[
        Path | None,
        typer.Option("--mnist", envvar="CONJOIN_MNIST", help="Folder with the files of MNIST."),
    ] = None,
    svhn: Annotated[
        Path | None,
        typer.Option("--svhn", envvar="CONJOIN_SVHN", help="Folder with the files of SVHN."),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--first",
            metavar="SPEC",
            help="Other data for the first network: handwritten, street, mnist:FOLDER, "
            "svhn:FOLDER or folder:FOLDER.",
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Option(
            "--second", metavar="SPEC", help="Other data for the second network, likewise."
        ),
    ] = None,
    unseen: Annotated[
        str | None,
        typer.Option(
            "--unseen",
            metavar="SPEC",
            help="A domain that nothing is trained on, for a further column and for transfer; "
            "'none' for none.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the run. Default: runs/digits-PRESET.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[Device, typer.Option("--device", help="Where to train.")] = Device.AUTO,
    precision: Annotated[
        Precision, typer.Option("--precision", help="In which numbers to train.")
    ] = Precision.AUTO,
    width: Annotated[
        float | None, typer.Option("--width", help="Factor on the numbers of channels.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes through the training data.")
    ] = None,
    train: Annotated[
        int | None, typer.Option("--train", min=1, help="Training images of each task.")
    ] = None,
    test: Annotated[
        int | None, typer.Option("--test", min=1, help="Test images of each task.")
    ] = None,
    continuum: Annotated[
        bool,
        typer.Option(
            "--continuum",
            help="Also train both networks side by side, coupled at every strength from "
            "independent to one network.",
        ),
    ] = False,
    strength: Annotated[
        str | None,
        typer.Option(
            "--strength",
            metavar="NUMBER|inf|auto",
            help="Also train them coupled at this strength; 'auto' finds a good one on validation "
            "data with five trainings.",
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="NAME[:LIST]",
            help="How the strength is spread: uniform, upstream, trunk, 'tied finish', or 'pooled "
            "norm'; with strengths of its own: 'pooled norm:0.1,1'. May be repeated. Default: the "
            "preset's.",
        ),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(
            "--strengths",
            metavar="LIST",
            help="Strengths of the continuum, such as 0,0.1,1,inf. Default: the preset's.",
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table/--no-table",
            help="Combine separately trained networks; without, only what --continuum and "
            "--methods ask for.",
        ),
    ] = True,
    methods: Annotated[
        bool,
        typer.Option(
            "--methods",
            help="Also fine-tune specialists from one network, and merge them by every method.",
        ),
    ] = False,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch missing files into --mnist and --svhn first."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, the rest to stderr.")
    ] = False,
) -> None:
    """Train one network on handwritten digits, one on house numbers, and combine their weights.

    Answers the question that conjoin began with: can two networks of one structure, trained on
    MNIST and on SVHN, become one network that does both? Each way of combining them is scored
    on both tasks, beside the single networks and a network that saw all data. The preset quick
    needs no download and takes minutes.

    Writes checkpoints, results.json, figures and report.html into the folder of the run. What is
    finished is kept: the same command goes on where it was interrupted.

    [dim]conjoin digits[/dim]

    [dim]conjoin digits --preset standard --mnist data/mnist --seeds 3 -o runs/mine[/dim]

    [dim]conjoin digits --preset small --mnist data/mnist --continuum --no-table[/dim]
    """
    if width is not None and not 0 < width < float("inf"):
        raise InputError(f"--width takes a number above 0, such as 0.25, not {width}")
    try:
        from conjoin.experiments.digits.run import Options, run_digits
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("conjoin"):
            raise
        raise ConjoinError(
            f"the package {error.name} is missing; install what the experiment needs: "
            "pip install 'conjoin[digits]'"
        ) from error

    options = Options(
        preset=preset.value,
        seeds=seeds,
        first_seed=first_seed,
        mnist=mnist,
        svhn=svhn,
        first=first,
        second=second,
        unseen=unseen,
        out=out or Path("runs", f"digits-{preset.value}"),
        device=device.value,
        precision=precision.value,
        width=width,
        epochs=epochs,
        train=train,
        test=test,
        table=table,
        methods=methods,
        continuum=continuum,
        strength=strength,
        profiles=tuple(profile or ()),
        strengths=_strengths(strengths),
        download=download,
        command=ctx.obj,
    )
    try:
        run = run_digits(options, report_console(stderr=as_json))
    except KeyboardInterrupt:
        message = "Interrupted; what is finished is kept. Run the same command again to go on."
        error_console().print(printable(message), soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        sys.stdout.write((run.folder / "results.json").read_text(encoding="utf-8"))


def _strengths(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--strengths takes numbers with commas between, such as 0,0.1,1,inf, not {text!r}"
        ) from None
