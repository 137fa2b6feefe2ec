"""The whole experiment: options in, a folder of results out."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from conjoin.comparison import Settings
from conjoin.comparison.measuring import Laboratory
from conjoin.comparison.running import About, file_name, measure_subjects, place
from conjoin.errors import InputError, TrainingError
from conjoin.experiments.digits.coupled import Chosen, Sweep, search, sweep_of
from conjoin.experiments.digits.network import check_width
from conjoin.experiments.digits.presets import Preset, find_preset
from conjoin.experiments.digits.rows import specialist_accuracy, subject_of
from conjoin.experiments.digits.sources import SOURCES, fetch_mnist, fetch_svhn, open_source
from conjoin.experiments.digits.training import Schedule, native_precision
from conjoin.experiments.digits.trainings import FINE_TUNED, TRAININGS, Task, Trainer
from conjoin.progress import Bars
from conjoin.report import save_figures, write_report
from conjoin.report.run_folder import Run
from conjoin.report.table import print_table
from conjoin.stages import StageCache
from conjoin.sweeping import Point, Profile

__all__ = ["Options", "run_digits"]

MARGIN = 5.0
"""A specialist must be this many points better than chance on validation data."""


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
        unseen: a domain that nothing is trained on, likewise; ``none`` for none.
        out: folder of the results; made if missing, gone on with if it is there.
        device: ``auto``, ``cpu``, ``cuda``.
        precision: of training: ``auto`` (bfloat16 where it is native), ``float32``, ``bfloat16``.
        width, epochs, train, test: in the place of the preset's.
        settings: how much is measured, in the place of the preset's.
        table: combine separately trained networks.
        methods: fine-tune specialists from one network, and merge them by every method.
        continuum: train networks that are coupled, at every strength of the preset.
        strength: a strength to train besides, ``inf``, or ``auto`` to search one.
        profiles: of the coupling, in the place of the preset's.
        strengths: of the continuum, in the place of the preset's.
        download: fetch MNIST or SVHN into its folder first, where files are missing.
        command: what repeats this, shown on the page.
    """

    preset: str = "quick"
    seeds: int = 1
    first_seed: int = 0
    mnist: Path | None = None
    svhn: Path | None = None
    first: str | None = None
    second: str | None = None
    unseen: str | None = None
    out: Path = Path("runs/digits")
    device: str = "auto"
    precision: str = "auto"
    width: float | None = None
    epochs: int | None = None
    train: int | None = None
    test: int | None = None
    settings: Settings | None = None
    table: bool = True
    methods: bool = False
    continuum: bool = False
    strength: str | None = None
    profiles: tuple[str, ...] = ()
    strengths: tuple[float, ...] = ()
    download: bool = False
    command: str | None = None


def run_digits(options: Options, console: Console) -> Run:
    """Train, combine, measure; print the tables; make the page; give the run as it lies there.

    What is finished is kept in ``OUT/cache``, so that a run that was killed goes on where it was,
    and ends with the same results.

    Raises:
        InputError, DataError: an option or a data source cannot be used; nothing was trained.
        TrainingError: a specialist did not learn.
        StageError: another run is using the folder.
    """
    preset, device = _with_options(find_preset(options.preset), options), _device(options.device)
    sweep = sweep_of(
        continuum=options.continuum or bool(options.strengths),
        strength=options.strength,
        profiles=options.profiles or _profiles(preset, options),
        strengths=options.strengths or preset.strengths,
    )
    if sweep is None and not options.table and not options.methods:
        raise InputError("without the table, the methods and the continuum there is nothing to do")
    tasks = _tasks(preset, options, console)
    schedule = dataclasses.replace(preset.schedule, precision=_precision(options.precision, device))
    console.print(f"[bold]conjoin digits[/bold], preset {options.preset}: {preset.about}")
    cache = StageCache(options.out / "cache", notice=console.print)
    about = _about(options, preset, tasks, schedule, device)
    with cache.locked(), Bars(console, "") as bars:

        def trainer(seed: int) -> Trainer:
            return Trainer(
                tasks=tasks,
                width=preset.width,
                schedule=schedule,
                device=device,
                seed=seed,
                cache=cache,
                progress=partial(_start, bars, seed),
            )

        chosen = None
        if sweep is not None and sweep.search is not None:
            chosen = _searched(trainer(options.first_seed), preset, sweep.search, console)
        labs = _laboratories(options, preset, trainer, sweep, chosen)
        run = measure_subjects(labs, options.out, about)
    print_table(run, console)
    page = write_report([options.out])
    save_figures(run, options.out / "figures")
    names = ("results.json", "table.md", "checkpoints", "figures")
    made = [*(options.out / name for name in names), page]
    console.print(
        "\nWritten: " + ", ".join(str(path) for path in made), soft_wrap=True, markup=False
    )
    return run


def _searched(trainer: Trainer, preset: Preset, profile: Profile, console: Console) -> Chosen:
    """Find a strength on the validation data of the first seed."""
    lab = Laboratory(
        subject_of(trainer, table=False), preset.settings, trainer.cache, trainer.progress
    )
    return search(lab, trainer, profile, console.print)


def _laboratories(
    options: Options,
    preset: Preset,
    trainer_of: Callable[[int], Trainer],
    sweep: Sweep | None,
    chosen: Chosen | None,
) -> Iterator[Laboratory]:
    """Give a laboratory for each seed, its networks trained and its specialists checked."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        trainer = trainer_of(seed)
        subject = subject_of(
            trainer, table=options.table, methods=options.methods, sweep=sweep, chosen=chosen
        )
        lab = Laboratory(subject, preset.settings, trainer.cache, trainer.progress)
        folder = options.out / "checkpoints" / f"seed-{seed}"
        names = [*(TRAININGS if options.table else ()), *(FINE_TUNED if options.methods else ())]
        _train(trainer, lab, names)
        _export(trainer, folder, names)
        if sweep is not None:
            for point in sweep.points(chosen):
                _export_coupled(trainer, point, folder)
        yield lab


def _start(bars: Bars, seed: int, title: str) -> Callable[[int, int], None]:
    return bars.start(f"seed {seed}  {title}")


def _train(trainer: Trainer, lab: Laboratory, names: Sequence[str]) -> None:
    chance = 100 / trainer.classes
    for name in names:
        trainer.network_file(name)
        accuracy = specialist_accuracy(lab, trainer, name)
        if accuracy is not None and accuracy < chance + MARGIN:
            raise TrainingError(
                f"the specialist {trainer.title(name)!r} has {accuracy:.1f} % on its own "
                f"validation data, where guessing has {chance:.1f} %: it did not learn, and a "
                "table made of it would say nothing. Train longer (--epochs), on more images "
                "(--train), or wider (--width)"
            )


def _export(trainer: Trainer, folder: Path, names: Sequence[str]) -> None:
    """Put trained networks of a seed into `folder` as safetensors files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        place(trainer.network_file(name), folder / f"{file_name(name)}.safetensors")


def _export_coupled(trainer: Trainer, point: Point, folder: Path) -> None:
    """Train the pair of a point, and put it into `folder` as safetensors files."""
    trained = trainer.coupled_folder(point)
    folder.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(trainer.tasks[:2]):
        name = file_name(f"coupled {point.name} {task.name}")
        place(trained / f"task_{number}.safetensors", folder / f"{name}.safetensors")


def _profiles(preset: Preset, options: Options) -> tuple[str, ...]:
    if not options.strengths:
        return preset.profiles
    # Strengths that a user names are for every profile.
    return tuple(text.partition(":")[0] for text in preset.profiles)


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
    if options.settings is not None:
        changes["settings"] = options.settings
    changed = dataclasses.replace(preset, **changes)
    check_width(changed.width)
    return changed


def _tasks(preset: Preset, options: Options, console: Console) -> tuple[Task, ...]:
    specs = [options.first or preset.sources[0], options.second or preset.sources[1]]
    unseen = options.unseen or preset.unseen
    if unseen is not None and unseen != "none":
        specs.append(unseen)
    with Bars(console, "data") as bars:
        found = [_task(spec, preset, options, bars) for spec in specs]
    if found[0].name == found[1].name:
        raise InputError(f"both tasks are {found[0].name}; choose two different data sources")
    if len(found) == 3 and found[2].name in (found[0].name, found[1].name):
        if options.unseen is not None:
            raise InputError(
                f"{found[2].name} is trained on, so that it is not unseen; choose another domain "
                "with --unseen, or --unseen none"
            )
        found = found[:2]
    return tuple(found)


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


def _about(
    options: Options,
    preset: Preset,
    tasks: Sequence[Task],
    schedule: Schedule,
    device: torch.device,
) -> About:
    """Say how the run was made; nothing in it changes when a killed run goes on."""
    first, second = (task.name for task in tasks[:2])
    specialists = {name: f"references: {name} alone" for name in (first, second)}
    if not options.table:
        specialists = {}
    return About(
        "digits",
        f"{first} and {second}: one network out of two?",
        options.command,
        specialists,
        {
            "preset": options.preset,
            "width": preset.width,
            "sources": [task.source.identity() for task in tasks],
            "counts": [dict(task.counts) for task in tasks],
            "schedule": dataclasses.asdict(schedule),
            "table": options.table,
        },
        device=device.type,
    )
