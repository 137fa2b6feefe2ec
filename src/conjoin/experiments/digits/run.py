"""The whole experiment: options in, a folder of results out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from conjoin import __version__
from conjoin.atomic import write_bytes
from conjoin.errors import InputError
from conjoin.experiments.digits.figure import save_figures
from conjoin.experiments.digits.measuring import export_networks, measure
from conjoin.experiments.digits.network import check_width
from conjoin.experiments.digits.presets import Preset, find_preset
from conjoin.experiments.digits.progress import Bars
from conjoin.experiments.digits.sources import SOURCES, fetch_mnist, fetch_svhn, open_source
from conjoin.experiments.digits.table import markdown_table, print_tables
from conjoin.experiments.digits.training import native_precision
from conjoin.experiments.digits.trainings import Laboratory, Task
from conjoin.records import Record, write_csv, write_json
from conjoin.stages import StageCache

__all__ = ["Options", "run_digits"]


@dataclass(frozen=True)
class Options:
    """What a user may choose; None leaves a choice to the preset.

    Args:
        preset: a name in `PRESETS`.
        seeds: how many runs with different initializations and data orders.
        first_seed: the others follow it.
        mnist: folder with MNIST's IDX files.
        svhn: folder with SVHN's .mat files.
        first, second: the data sources of the two tasks, as `open_source` reads them.
        out: folder of the results; made if missing, gone on with if it is there.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: of training: ``auto`` (bfloat16 where it is native), ``float32``, ``bfloat16``.
        width, epochs, train, test: in the place of the preset's.
        download: fetch MNIST or SVHN into its folder first, where files are missing.
    """

    preset: str = "quick"
    seeds: int = 1
    first_seed: int = 0
    mnist: Path | None = None
    svhn: Path | None = None
    first: str | None = None
    second: str | None = None
    out: Path = Path("runs/digits")
    device: str = "auto"
    precision: str = "auto"
    width: float | None = None
    epochs: int | None = None
    train: int | None = None
    test: int | None = None
    download: bool = False


def run_digits(options: Options, console: Console) -> Path:
    """Train, combine, measure; print the tables; give the path of ``results.json``.

    What is finished is kept in ``OUT/cache``, so that a run that was killed goes on where it was,
    and ends with the same results.

    Raises:
        InputError, DataError: an option or a data source cannot be used; nothing was trained.
        TrainingError: a specialist did not learn.
        StageError: another run is using the folder.
    """
    preset, device = _with_options(find_preset(options.preset), options), _device(options.device)
    tasks = _tasks(preset, options, console)
    schedule = dataclasses.replace(preset.schedule, precision=_precision(options.precision, device))
    console.print(f"[bold]conjoin digits[/bold], preset {options.preset}: {preset.about}")
    cache = StageCache(options.out / "cache", notice=console.print)
    records: list[Record] = []
    with cache.locked():
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            with Bars(console, f"seed {seed}") as bars:
                lab = Laboratory(
                    tasks=tasks,
                    width=preset.width,
                    schedule=schedule,
                    device=device,
                    seed=seed,
                    reestimate=preset.reestimate,
                    cache=cache,
                    progress=bars.start,
                )
                records += measure(lab, bars)
                export_networks(lab, options.out / "checkpoints" / f"seed-{seed}")
        result = options.out / "results.json"
        write_json(result, records, run=_description(options, preset, tasks, schedule))
        write_csv(options.out / "results.csv", records)
    names = [task.name for task in tasks]
    print_tables(records, names, console)
    table = options.out / "table.md"
    write_bytes(table, markdown_table(records, names).encode())
    figures = save_figures(records, names, options.out)
    made = [result, options.out / "results.csv", table, *figures, options.out / "checkpoints"]
    console.print(
        "\nWritten: " + ", ".join(str(path) for path in made), soft_wrap=True, markup=False
    )
    return result


def _with_options(preset: Preset, options: Options) -> Preset:
    for name in ("seeds", "width", "epochs", "train", "test"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise InputError(f"{name} must be positive, not {value}")
    if options.first_seed < 0:
        raise InputError(f"first_seed must not be negative, but is {options.first_seed}")
    changes: dict[str, Any] = {
        name: value
        for name in ("width", "train", "test")
        if (value := getattr(options, name)) is not None
    }
    if options.epochs is not None:
        changes["schedule"] = dataclasses.replace(preset.schedule, epochs=options.epochs)
    changed = dataclasses.replace(preset, **changes)
    check_width(changed.width)
    return changed


def _tasks(preset: Preset, options: Options, console: Console) -> tuple[Task, Task]:
    specs = (options.first or preset.sources[0], options.second or preset.sources[1])
    with Bars(console, "data") as bars:
        found = [_task(spec, preset, options, bars) for spec in specs]
    if found[0].name == found[1].name:
        raise InputError(f"both tasks are {found[0].name}; choose two different data sources")
    return found[0], found[1]


def _task(spec: str, preset: Preset, options: Options, bars: Bars) -> Task:
    folders = {"mnist": options.mnist, "svhn": options.svhn}
    for name, folder in folders.items():
        if f"{{{name}}}" in spec:
            if folder is None:
                known = ", ".join(kind.spelling for kind in SOURCES)
                raise InputError(
                    f"this preset needs the folder of {name.upper()}'s files: --{name} FOLDER (or "
                    f"the environment variable CONJOIN_{name.upper()}), or other data: "
                    f"--first/--second with one of {known}"
                )
            if options.download:
                fetch = fetch_mnist if name == "mnist" else fetch_svhn
                fetch(folder, progress=bars.start(f"downloading {name.upper()}"))
            spec = spec.replace(f"{{{name}}}", str(folder))
    source = open_source(spec)
    source.identity()  # a missing file is an error now, not after half an hour
    wanted = {"train": preset.train, "validation": preset.validation, "test": preset.test}
    counts = {}
    for split, count in wanted.items():
        available = source.available(split)  # type: ignore[arg-type]
        if available is None and count is None:
            raise InputError(f"{source.name} has no end; say how many with --train")
        counts[split] = count if available is None else min(available, count or available)
    return Task(source, counts)  # type: ignore[arg-type]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"device is auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here; use --device cpu")
    return torch.device(name)


def _precision(name: str, device: torch.device) -> Any:
    if name not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision is auto, float32 or bfloat16, not {name!r}")
    return native_precision(device) if name == "auto" else name


def _description(
    options: Options, preset: Preset, tasks: Sequence[Task], schedule: Any
) -> dict[str, Any]:
    """Say how the run was made; nothing in it changes when a killed run goes on."""
    return {
        "experiment": "digits",
        "preset": options.preset,
        "seeds": list(range(options.first_seed, options.first_seed + options.seeds)),
        "tasks": [task.name for task in tasks],
        "sources": [task.source.identity() for task in tasks],
        "counts": [dict(task.counts) for task in tasks],
        "width": preset.width,
        "reestimate": preset.reestimate,
        "schedule": dataclasses.asdict(schedule),
        "versions": {"conjoin": __version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
