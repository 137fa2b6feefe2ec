"""`compare`: your models, your data -> every row and curve, in one folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from conjoin.checkpoints import open_checkpoint, save
from conjoin.comparison.checks import check_calls, run_folder, settings_or_default
from conjoin.comparison.data import TaskSpec, read_tasks
from conjoin.comparison.measuring import Laboratory, Progress
from conjoin.comparison.method_rows import method_rows
from conjoin.comparison.networks import (
    Model,
    Source,
    check_finite,
    digest_of,
    fresh,
    names_of,
    network_of,
)
from conjoin.comparison.randomness import seeded
from conjoin.comparison.rows import parent_row, rows_for
from conjoin.comparison.running import About, measure_subjects, write_files_run
from conjoin.comparison.source_code import code_digest
from conjoin.comparison.subject import Group, Network, Settings, Subject
from conjoin.comparison.transferring import POOL
from conjoin.comparison.user_code import as_text
from conjoin.comparison.views import distance_records
from conjoin.errors import InputError, MismatchError, NonFiniteError
from conjoin.merging import merge
from conjoin.report.run_folder import Run
from conjoin.stages import Stage, StageCache

__all__ = ["compare"]


def compare(
    models: Mapping[str, Model] | Iterable[Model],
    data: Mapping[str, TaskSpec] | TaskSpec | None = None,
    *,
    out: str | PathLike[str],
    model: Source | None = None,
    repeats: Sequence[Sequence[Model]] = (),
    references: Mapping[str, Model] | None = None,
    base: Model | None = None,
    settings: Settings | None = None,
    entry: str | None = None,
    device: str | torch.device = "cpu",
    title: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] = print,
) -> Run:
    """Combine models in every way there is, measure everything, and write it into a folder.

    Each network alone, their ensemble, their sum, their mean, the mean with re-estimated
    statistics and so on are scored on validation and test data; curves show what lies between the
    networks and what merging does to each layer. Everything that is finished is cached: the same
    call goes on where it was interrupted, and measures again only what has changed.

    Args:
        models: two or more of one structure, by name or in order: modules, or files of weights
            (for which `model` is needed; without it, only what needs no running is measured).
        data: task -> ``{"train": ..., "validation": ..., "test": ...}``, or that for one task. Each
            is a loader of ``(inputs, labels)``, or that pair for the whole set; see `evaluate`.
            The training part gives unlabelled inputs for statistics, and may be left out. A task
            with ``"trained_on": False`` is an unseen domain: a further column, and what is
            fine-tuned to on few labels.
        out: the folder; made if it is missing, gone on with if it is there.
        model: the class of the files, or a function without arguments that makes a network.
        repeats: the same models from other seeds, for intervals over seeds; each in the order of
            `models`.
        references: other networks to compare with, such as one that was trained on all data.
        base: the network that all models were fine-tuned from: adds a section with a row for every
            method of merging that fits, such as task arithmetic and TIES.
        settings: how much is measured.
        entry: which entry of torch files has the weights.
        device: where networks run.
        title: of the page.
        command: what repeats this, shown on the page.
        progress: shows long jobs.
        notice: called with a line for people.

    Returns:
        The run as it lies in the folder; ``run.folder`` is where. `conjoin.report` makes its page.

    Raises:
        InputError, DataError, MismatchError, NonFiniteError: models and data do not fit together.
        UserCodeError: the class or a loader raised.

    >>> import tempfile
    >>> torch.manual_seed(0) and None
    >>> a, b = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> part = (torch.randn(30, 4), torch.randint(3, (30,)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = compare([a, b], {"validation": part, "test": part}, out=folder)
    >>> [row.name for row in run.info.rows][:3]
    ['a alone', 'b alone', 'best single parent (chosen on validation data)']
    """
    named = names_of(models)
    if len(named) < 2:
        raise InputError("compare takes two or more models; only one is given")
    chosen, out = settings_or_default(settings), run_folder(out)
    check_calls(progress=progress or _silent, notice=notice)
    if base is not None:
        names_of([base])
    files = all(not isinstance(m, nn.Module) for m in named.values())
    if files and model is None and data is None:
        if repeats or references or base is not None:
            raise InputError(
                "other seeds, references and a base are only run: give a model and data too"
            )
        return _compare_files(named, out, entry, title, command)
    if data is None:
        raise InputError("to run the models, data are needed: data={task: {...}} (--data)")
    where = _device(device)
    with seeded():  # what the caller draws next is not changed
        seeds = [named, *(dict(zip(named, m, strict=True)) for m in _checked(repeats, named))]
        families = [_networks(found, model, entry, where) for found in seeds]
        others = names_of(references) if references else {}
        compared = _networks(others, model, entry, where)
        ancestor = None if base is None else _networks({"base": base}, model, entry, where)["base"]
        for found in families:
            _check_structure(found if ancestor is None else {**found, "base": ancestor})
        tasks = read_tasks(
            data,
            next(iter(families[0].values())).load(),
            statistics=chosen.statistics,
            pool=POOL,
            progress=progress or _silent,
        )
        trained = tuple(name for name, task in tasks.items() if task.trained_on)
        subjects = [
            Subject(
                seed,
                tasks,
                _groups(found, compared, trained, ancestor),
                _scratch(model, seed, where),
            )
            for seed, found in enumerate(families)
        ]
        cache = StageCache(out / "cache", notice=notice)
        about = About(
            "compare",
            as_text(str(title or f"{' and '.join(named)}: can their weights be combined?")),
            None if command is None else as_text(command),
            hashes={
                n: digest_of(m, entry)
                for n, m in {**others, **named, **({} if base is None else {"base": base})}.items()
            },
            device=str(where),
        )
        labs = (Laboratory(subject, chosen, cache, progress or _silent) for subject in subjects)
        with cache.locked():
            return measure_subjects(labs, out, about)


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises without CUDA
        reason = str(error).partition("\n")[0]
        raise InputError(f"networks cannot run on the device {str(device)!r}: {reason}") from error
    return found


def _checked(
    repeats: Sequence[Sequence[Model]], named: Mapping[str, Model]
) -> Sequence[Sequence[Model]]:
    for number, again in enumerate(repeats, start=1):
        if len(again) != len(named):
            raise InputError(
                f"repetition {number} has {len(again)} models, but there are {len(named)}: "
                f"{', '.join(named)}; give one for each, in the same order"
            )
    return repeats


def _networks(
    models: Mapping[str, Model], source: Source | None, entry: str | None, device: torch.device
) -> dict[str, Network]:
    return {
        name: network_of(name, found, source, entry=entry, device=device)
        for name, found in models.items()
    }


def _groups(
    networks: Mapping[str, Network],
    references: Mapping[str, Network],
    tasks: tuple[str, ...],
    base: Network | None,
) -> tuple[Group, ...]:
    own = Group("models", "networks and combinations", networks, tasks, rows_for(list(networks)))
    found = [own]
    if base is not None:
        title, rows = "merged by every method", method_rows(len(networks), base=True)
        found.append(Group("methods", title, networks, tasks, rows, views=(), base=base))
        references = {"base": base, **references}
    if references:
        title = "other networks to compare with"
        rows = tuple(parent_row(n, kind="reference", shown=n) for n in references)
        found.append(Group("references", title, references, tasks, rows, views=()))
    return tuple(found)


def _check_structure(networks: Mapping[str, Network]) -> None:
    """Raise early if the networks cannot be merged: hours may lie before the first merge."""
    loaded = [network.load() for network in networks.values()]
    try:
        merge(loaded)
    except MismatchError as error:
        raise MismatchError(f"the networks are not of one structure: {error}") from error
    except NonFiniteError:
        return  # their structure was found to be the same; rows say what is too large


def _scratch(source: Source | None, seed: int, device: torch.device) -> Network | None:
    if source is None:
        return None
    settings = {"seed": seed, "code": code_digest(source), "device": device.type}
    stage = Stage("scratch", 1, {**settings, "torch": torch.__version__})
    return Network("scratch", stage, partial(_new, source, seed, device))


def _new(source: Source, seed: int, device: torch.device) -> nn.Module:
    return fresh(source, seed).to(device).eval()


def _compare_files(
    models: Mapping[str, Model],
    out: Path,
    entry: str | None,
    title: str | None,
    command: str | None,
) -> Run:
    """Give what can be had of files without running them: distances, and merged files."""
    opened = {name: open_checkpoint(str(path), entry=entry) for name, path in models.items()}
    for name, checkpoint in opened.items():
        check_finite(checkpoint, name)
    try:
        merged = {method: merge(list(opened.values()), method) for method in ("sum", "mean")}
    except MismatchError as error:
        raise MismatchError(f"the files are not of one structure: {error}") from error
    records = []
    for first, second in combinations(opened, 2):
        records += distance_records("models", (first, second), opened[first], opened[second], 0)
    about = About(
        "compare",
        as_text(str(title or f"{' and '.join(models)}: how far are they apart?")),
        None if command is None else as_text(command),
        hashes={name: digest_of(path, entry) for name, path in models.items()},
    )
    reason = (
        "networks are not run: name their class (--model net.py:Name) and data (--data "
        "data.py:loaders) for accuracies and curves"
    )
    folder = out / "checkpoints"
    with StageCache(out / "cache").locked():
        folder.mkdir(parents=True, exist_ok=True)
        for method, checkpoint in merged.items():
            save(checkpoint, folder / f"{method}.safetensors", overwrite=True)
        return write_files_run(out, about, list(models), records, reason)


def _silent(title: str) -> Callable[[int, int], None]:  # noqa: ARG001
    return lambda done, total: None  # noqa: ARG005
