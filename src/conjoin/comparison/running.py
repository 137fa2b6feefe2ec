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
from conjoin.comparison.differences import differences
from conjoin.comparison.measuring import Laboratory, Measured, row_key, settings_of
from conjoin.comparison.pictures import save_filters, save_samples
from conjoin.comparison.rows import BEST_PARENT, MEAN, Family, Row
from conjoin.comparison.subject import Group, Subject, TaskData
from conjoin.comparison.transferring import measure_transfer
from conjoin.comparison.views import VIEWS, measure_view
from conjoin.errors import ConjoinError
from conjoin.records import Record, write_csv, write_json
from conjoin.report.run_folder import COSTS, RESULTS, Run, read_run
from conjoin.report.table import markdown_table

__all__ = ["About", "file_name", "measure_subjects", "place", "write_files_run"]


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
    seen: list[Laboratory] = []
    for lab in labs:
        _measure(lab, found, first=not seen)
        _export(lab, found, out / "checkpoints")
        seen.append(lab)
    first = seen[0]
    subject = first.subject
    specialists = about.specialists
    if specialists is None:
        specialists = {task: key for task, key in found.own.items() if key in found.rows}
    intervals = differences(found.stored, subject.tasks, _against(found, subject, specialists))
    info = _info(about, first, [lab.subject.seed for lab in seen], found, specialists)
    write_json(out / RESULTS, found.records, run=info, intervals=intervals)
    write_csv(out / "results.csv", found.records)
    _write_costs(out, found, about, time.perf_counter() - began)
    _write_pictures(first, found, out)
    run = read_run(out)
    write_bytes(out / "table.md", markdown_table(run).encode())
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
    return read_run(out)


def _measure(lab: Laboratory, found: _Found, *, first: bool) -> None:
    for family in lab.families():
        group = family.group
        for task, name in family.own.items():
            found.own.setdefault(task, f"{group.key}: {name} alone")
        found.records += lab.validated_family(family)
        _measure_rows(lab, family, found)
        for kind in VIEWS:
            if kind.name not in group.views or not (kind.every_seed or first):
                continue
            reason = kind.why_not(family)
            if reason is not None:
                found.skip(group.key, kind.title, reason)
                continue
            found.records += measure_view(lab, family, kind)
    found.records += measure_transfer(lab)
    if not lab.unseen:
        found.skip("", "transfer", "no data of a domain that no network was trained on was given")


def _measure_rows(lab: Laboratory, family: Family, found: _Found) -> None:
    group = family.group
    update = lab.progress(f"rows: {group.title}")
    for number, row in enumerate(group.rows):
        reason = row.why_not(family)
        if reason is not None:
            found.skip(group.key, row.name, reason)
        else:
            key = row_key(group, row)
            try:
                measured = lab.row(family, row)
            except ConjoinError as error:
                error.add_note(f"(while measuring the row {row.name!r} of {group.title!r})")
                raise
            records = measured.records
            found.records += records
            found.stored.setdefault(key, []).append(measured)
            found.rows.setdefault(key, _row_info(group, row, records))
        update(number + 1, len(group.rows))


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
    """Say which rows each row is compared with: the specialist, and the mean of its group."""
    best = next((k for k, row in found.rows.items() if row["name"] == BEST_PARENT), None)
    against: dict[str, dict[str, list[str]]] = {}
    for task in subject.tasks:
        for key, row in found.rows.items():
            others = [specialists.get(task, best), f"{row['group']}: {MEAN}", best]
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
    if not save_samples(lab, firsts, out / "samples.safetensors"):
        (out / "samples.safetensors").unlink(missing_ok=True)
    by_group: dict[str, list[tuple[str, Measured]]] = {}
    for key, row in found.rows.items():
        by_group.setdefault(row["group"], []).append((row["name"], found.stored[key][0]))
    if not save_filters(lab, by_group, out / "filters.safetensors"):
        (out / "filters.safetensors").unlink(missing_ok=True)


def _export(lab: Laboratory, found: _Found, folder: Path) -> None:
    """Put the merged networks of a seed into `folder` as files."""
    target = folder / f"seed-{lab.subject.seed}"
    for key, stored in found.stored.items():
        network = stored[-1].network
        if network is not None:
            target.mkdir(parents=True, exist_ok=True)
            place(network, target / f"{file_name(key)}.safetensors")


def place(source: Path, target: Path) -> None:
    """Give a file a second name where the system can, else copy it: merged networks are large."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
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
