"""Every row on every task, as cached stages; and the networks as files."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from conjoin.checkpoints import save
from conjoin.errors import TrainingError
from conjoin.evaluation import Predictor, evaluate
from conjoin.experiments.digits.progress import Bars
from conjoin.experiments.digits.rows import ROWS, ROWS_VERSION, SECTIONS, Row
from conjoin.experiments.digits.training import to_input
from conjoin.experiments.digits.trainings import TRAININGS, Laboratory
from conjoin.records import Record, read_records, write_json
from conjoin.stages import Stage

__all__ = ["export_networks", "measure", "row_stage"]

MARGIN = 5.0
"""A specialist must be this many points better than chance on validation data."""


def measure(lab: Laboratory, bars: Bars) -> list[Record]:
    """Train what is missing and measure every row on the test parts.

    Raises:
        TrainingError: a specialist is about as good as chance on its own validation data.
    """
    records: list[Record] = []
    for name, training in TRAININGS.items():
        lab.network_file(name)
        if len(training.tasks) == 1:
            records += _checked_specialist(lab, name, training.tasks[0])
    update = bars.start("measuring the rows")
    for number, row in enumerate(ROWS):
        records += read_records(_measured(lab, row) / "records.json")
        update(number + 1, len(ROWS))
    return records


def export_networks(lab: Laboratory, folder: Path) -> None:
    """Put the trained and the merged networks of a seed into `folder` as safetensors files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TRAININGS:
        _copy(lab.network_file(name), folder / f"{_file_name(name)}.safetensors")
    for row in ROWS:
        if row.save:
            stored = _measured(lab, row) / "network.safetensors"
            _copy(stored, folder / f"{_file_name(row.key)}.safetensors")


def row_stage(lab: Laboratory, row: Row) -> Stage:
    """Say what decides the numbers of a row."""
    section = SECTIONS[row.section]
    inputs = {name: lab.network_stage(name) for name in section.networks}
    for task in range(2):
        inputs |= {f"test {task}": lab.images_stage(task, "test")}
        inputs |= {f"validation {task}": lab.images_stage(task, "validation")}
    return Stage("row", ROWS_VERSION, {"row": row.key, "reestimate": lab.reestimate}, inputs)


def _measured(lab: Laboratory, row: Row) -> Path:
    def make(out: Path, work: Path) -> None:  # noqa: ARG001 - seconds to make again
        predictor = row.make(lab)
        section = SECTIONS[row.section]
        data = {lab.tasks[task].name: _test_data(lab, task) for task in section.tasks}
        how = {"section": row.section, "row": row.name}
        records = evaluate({row.key: _fast(predictor)}, data, seed=lab.seed, how={row.key: how})
        write_json(out / "records.json", records)
        if row.save:
            assert isinstance(predictor, nn.Module)
            save(predictor, out / "network.safetensors")

    return lab.cache.get(row_stage(lab, row), make)


def _checked_specialist(lab: Laboratory, name: str, task: int) -> list[Record]:
    inputs = {"network": lab.network_stage(name), "images": lab.images_stage(task, "validation")}

    def make(out: Path, work: Path) -> None:  # noqa: ARG001
        images = lab.images(task, "validation")
        data = {lab.tasks[task].name: (to_input(images.images), images.labels)}
        how = {name: {"section": "specialists"}}
        predictor = {name: _fast(lab.network(name))}
        records = evaluate(predictor, data, split="validation", seed=lab.seed, how=how)
        write_json(out / "records.json", records)

    folder = lab.cache.get(Stage("specialist", 1, {"network": name}, inputs), make)
    records = read_records(folder / "records.json")
    accuracy = next(record.value for record in records if record.metric == "accuracy")
    chance = 100 / lab.classes
    if accuracy < chance + MARGIN:
        raise TrainingError(
            f"the specialist {lab.title(name)!r} has {accuracy:.1f} % on its own validation data, "
            f"where guessing has {chance:.1f} %: it did not learn, and a table made of it would "
            "say nothing. Train longer (--epochs), on more images (--train), or wider (--width)"
        )
    return records


def _test_data(lab: Laboratory, task: int) -> tuple[Tensor, Tensor]:
    images = lab.images(task, "test")
    return to_input(images.images), images.labels


def _fast(predictor: Predictor) -> Predictor:
    """Put the convolutions' weights into the order of memory that runs faster."""
    if isinstance(predictor, nn.Module):
        return predictor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    if isinstance(predictor, Sequence):
        return [_fast(member) for member in predictor]  # type: ignore[misc]
    return {task: _fast(member) for task, member in predictor.items()}


def _copy(source: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _file_name(text: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words)
