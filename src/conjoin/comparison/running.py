"""Subjects -> a run folder: every row, curve, interval and picture, then tables and page."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from conjoin import __version__
from conjoin.atomic import write_bytes
from conjoin.comparison.continuum import (
    continuum_differences,
    continuum_info,
    measure_continuum,
)
from conjoin.comparison.differences import differences
from conjoin.comparison.family import Family, Row
from conjoin.comparison.measuring import (
    Laboratory,
    Measured,
    check_same_order,
    row_key,
    settings_of,
)
from conjoin.comparison.pictures import save_filters, save_samples
from conjoin.comparison.rows import BEST_PARENT, MEAN
from conjoin.comparison.subject import Group, Subject, TaskData
from conjoin.comparison.transferring import (
    Tuned,
    measure_transfer,
    transfer_differences,
    why_not_transfer,
)
from conjoin.comparison.views import VIEWS, measure_view
from conjoin.errors import (
    ConjoinError,
    DataError,
    InputError,
    MismatchError,
    NonFiniteError,
    TraceError,
)
from conjoin.records import Record, write_csv, write_json
from conjoin.report.run_folder import COSTS, RESULTS, Run, read_run
from conjoin.report.table import markdown_table

__all__ = ["About", "file_name", "measure_subjects", "place", "write_files_run"]


TABLE, SAMPLES, FILTERS = "table.md", "samples.safetensors", "filters.safetensors"


@dataclass(frozen=True)
class About:
    """What a run says of itself besides its numbers.

    Args:
        experiment: ``compare`` or ``digits``.
        title: one line.
        command: what repeats it, if it is a command.
        specialists: task -> key of the row that its differences refer to; None finds it.
        settings: more of them, beside those of the comparison.
        hashes: name -> SHA-256.
        device: on which networks ran.
    """

    experiment: str
    title: str
    command: str | None = None
    specialists: Mapping[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"


@dataclass
class _Found:
    """What has been measured so far."""

    records: list[Record] = field(default_factory=list)
    stored: dict[str, list[Measured]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)
    tuned: list[Tuned] = field(default_factory=list)
    points: dict[str, list[Measured]] = field(default_factory=dict)

    def skip(self, group: str, name: str, reason: str) -> None:
        entry = {"group": group, "name": name, "reason": reason}
        if entry not in self.skipped:
            self.skipped.append(entry)


def measure_subjects(labs: Iterable[Laboratory], out: Path, about: About) -> Run:
    """Measure all seeds and write the run folder; give it back as it reads.

    The labs, one for each seed, are asked for one after another, so that their networks may be
    trained when their turn comes. They have the same tasks, groups and rows.

    Args:
        labs: what is measured.
        out: the folder; made if it is missing.
        about: what is said of the run.
    """
    began = time.perf_counter()
    found = _Found()
    first: Laboratory | None = None
    seeds: list[int] = []
    for lab in labs:
        measured = _measure(lab, found, first=first is None)
        _export(lab, measured, out / "checkpoints")
        seeds.append(lab.subject.seed)
        first = first or lab
    if first is None:
        raise InputError("there is nothing to measure: no seed is given")
    subject = first.subject
    specialists = about.specialists
    if specialists is None:
        specialists = {task: key for task, key in found.own.items() if key in found.rows}
    intervals = differences(found.stored, subject.tasks, _against(found, subject, specialists))
    intervals += transfer_differences(found.tuned, subject.tasks)
    intervals += continuum_differences(subject, {**found.stored, **found.points})
    info = _info(about, first, seeds, found, specialists)
    if subject.continuum is not None:
        info["continuum"] = continuum_info(subject, subject.continuum, found.records)
    write_json(out / RESULTS, found.records, run=info, intervals=intervals)
    write_csv(out / "results.csv", found.records)
    _write_costs(out, found, about, time.perf_counter() - began)
    _write_pictures(first, found, out)
    run = read_run(out)
    write_bytes(out / TABLE, markdown_table(run).encode())
    return run


def write_files_run(
    out: Path, about: About, names: Sequence[str], records: Sequence[Record], reason: str
) -> Run:
    """Write the folder of a run in which no network was run; give it back as it reads.

    Args:
        out: the folder.
        about: what is said of the run.
        names: of the models.
        records: distances.
        reason: why there is no more.
    """
    info = {
        **_shown(about),
        "seeds": [0],
        "tasks": [],
        "groups": [{"key": "models", "title": "files", "models": list(names), "tasks": []}],
        "rows": [],
        "skipped": [{"group": "models", "name": "rows and curves", "reason": reason}],
        "settings": dict(about.settings),
    }
    write_json(out / RESULTS, records, run=info)
    write_csv(out / "results.csv", records)
    for name in (COSTS, SAMPLES, FILTERS):  # of an earlier run with networks
        (out / name).unlink(missing_ok=True)
    run = read_run(out)
    write_bytes(out / TABLE, markdown_table(run).encode())
    return run


def _measure(lab: Laboratory, found: _Found, *, first: bool) -> dict[str, Measured]:
    """Measure all of one seed; give what is stored of its rows."""
    rows: dict[str, Measured] = {}
    for family in lab.families():
        group = family.group
        for task, name in family.own.items():
            found.own.setdefault(task, f"{group.key}: {name} alone")
        found.records += lab.validated_family(family)
        rows |= _measure_rows(lab, family, found)
        for kind in VIEWS:
            if kind.name not in group.views or not (kind.every_seed or first):
                continue
            reason = kind.why_not(family)
            if reason is not None:
                found.skip(group.key, kind.title, reason)
                continue
            try:
                records = measure_view(lab, family, kind)
                if not records:
                    found.skip(group.key, kind.title, "the networks have nothing that it shows")
                found.records += records
            except (DataError, InputError, MismatchError, NonFiniteError, TraceError) as error:
                found.skip(group.key, kind.title, str(error))
    coupled = measure_continuum(lab, found.skip)
    found.records += coupled.records
    for key, one in coupled.stored.items():
        found.points.setdefault(key, []).append(one)
    try:
        records, tuned = measure_transfer(lab)
        found.records += records
        found.tuned += tuned
    except (DataError, InputError) as error:  # such as one label where there is BatchNorm
        found.skip("", "transfer", str(error))
    reasons = [why_not_transfer(task) for task in lab.unseen.values()]
    if not lab.unseen:
        reasons = ["no data of a domain that no network was trained on was given"]
    for reason in reasons:
        if reason is not None:
            found.skip("", "transfer", reason)
    return rows


def _measure_rows(lab: Laboratory, family: Family, found: _Found) -> dict[str, Measured]:
    group, rows = family.group, {}
    update = lab.progress(f"rows: {group.title}")
    for number, row in enumerate(group.rows):
        measured = row.why_not(family) or _measure_row(lab, family, row)
        if isinstance(measured, str):
            found.skip(group.key, row.name, measured)
        else:
            records = measured.records
            rows[measured.key] = measured
            found.records += records
            found.stored.setdefault(measured.key, []).append(measured)
            found.rows.setdefault(measured.key, _row_info(group, row, records))
            # Before hours are spent on rows that could not be compared.
            before = next(iter(found.stored.values()))[0]
            for task in lab.subject.tasks:
                check_same_order((before, measured), task)
        update(number + 1, len(group.rows))
    return rows


def _measure_row(lab: Laboratory, family: Family, row: Row) -> Measured | str:
    """Measure a row, or say why it must be left out."""
    try:
        return lab.row(family, row)
    except (InputError, NonFiniteError, TraceError) as error:
        return str(error)  # a sum can be too large though no network is; not all can be traced
    except ConjoinError as error:
        error.add_note(f"(while measuring the row {row.name!r} of {family.group.title!r})")
        raise


def _row_info(group: Group, row: Row, records: Sequence[Record]) -> dict[str, Any]:
    return {
        "key": row_key(group, row),
        "group": group.key,
        "name": row.name,
        "kind": row.kind,
        "about": row.about,
        "uses_task_label": any(record.how["uses_task_label"] for record in records),
        "networks": max((record.how["networks"] for record in records), default=1),
    }


def _against(
    found: _Found, subject: Subject, specialists: Mapping[str, str]
) -> dict[str, dict[str, list[str]]]:
    """Say which rows each row is compared with: specialist, best parent, mean and ensemble."""
    best = next((k for k, row in found.rows.items() if row["name"] == BEST_PARENT), None)
    ensembles = {row["group"]: k for k, row in found.rows.items() if row["kind"] == "ensemble"}
    against: dict[str, dict[str, list[str]]] = {}
    for task in subject.tasks:
        for key, row in found.rows.items():
            group = row["group"]
            others = [specialists.get(task, best), f"{group}: {MEAN}", best, ensembles.get(group)]
            chosen = [other for other in dict.fromkeys(others) if other in found.rows]
            against.setdefault(task, {})[key] = [other for other in chosen if other is not None]
    return against


def _info(
    about: About,
    lab: Laboratory,
    seeds: Sequence[int],
    found: _Found,
    specialists: Mapping[str, str],
) -> dict[str, Any]:
    """Say how the run was made; nothing in it changes when a killed run goes on."""
    subject = lab.subject
    return {
        **_shown(about),
        "seeds": list(seeds),
        "tasks": [_task_info(task) for task in subject.tasks.values()],
        "groups": [
            {
                "key": group.key,
                "title": group.title,
                "models": list(group.networks),
                "tasks": list(group.tasks),
            }
            for group in subject.groups
        ],
        "rows": list(found.rows.values()),
        "skipped": found.skipped,
        "specialists": dict(specialists),
        "settings": {
            **settings_of(lab.settings),
            **about.settings,
            "threads": torch.get_num_threads(),
            "device": about.device,
        },
    }


def _shown(about: About) -> dict[str, Any]:
    return {
        "experiment": about.experiment,
        "title": about.title,
        "command": about.command,
        "versions": {
            "conjoin": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "hashes": dict(about.hashes),
    }


def _task_info(task: TaskData) -> dict[str, Any]:
    return {
        "name": task.name,
        "metric": "loss" if task.regression else "accuracy",
        "trained_on": task.trained_on,
        "classes": None if task.classes is None else list(task.classes),
        "counts": {str(part): count for part, count in task.counts.items()},
    }


def _write_costs(out: Path, found: _Found, about: About, seconds: float) -> None:
    rows = [measured.cost for stored in found.stored.values() for measured in stored]
    document = {"format": 1, "rows": rows, "seconds": round(seconds, 1), "device": about.device}
    write_bytes(out / COSTS, (json.dumps(document, indent=1) + "\n").encode())


def _write_pictures(lab: Laboratory, found: _Found, out: Path) -> None:
    firsts = [stored[0] for stored in found.stored.values()]
    if not save_samples(lab, firsts, out / SAMPLES):
        (out / SAMPLES).unlink(missing_ok=True)
    by_group: dict[str, list[tuple[str, Measured]]] = {}
    for key, row in found.rows.items():
        by_group.setdefault(row["group"], []).append((key, found.stored[key][0]))
    if not save_filters(lab, by_group, out / FILTERS):
        (out / FILTERS).unlink(missing_ok=True)


def _export(lab: Laboratory, measured: Mapping[str, Measured], folder: Path) -> None:
    """Put the merged networks of a seed into `folder` as files, in the place of older ones."""
    target = folder / f"seed-{lab.subject.seed}"
    for group in lab.subject.groups:
        for row in (row for row in group.rows if row.save):
            path = target / f"{file_name(row_key(group, row))}.safetensors"
            found = measured.get(row_key(group, row))
            network = None if found is None else found.network
            if network is None:
                path.unlink(missing_ok=True)
            else:
                target.mkdir(parents=True, exist_ok=True)
                place(network, path)


def place(source: Path, target: Path) -> None:
    """Give a file a second name where the system can, else copy it: merged networks are large."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another does nothing, and would leave both
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)


def file_name(text: str) -> str:
    """Give a plain name for a file.

    >>> file_name("shared: mean + re-estimated statistics")
    'shared-mean-re-estimated-statistics'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words)[:100]
