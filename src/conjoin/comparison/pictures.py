"""What the page shows as pictures: test images with every answer, and first-layer filters."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from conjoin.checkpoints import open_checkpoint, save
from conjoin.comparison.examples import joined, spread, spread_pairs
from conjoin.comparison.measuring import Laboratory, Measured
from conjoin.comparison.subject import TaskData

__all__ = ["save_filters", "save_samples"]

SMALLEST = 8
"""Pixels; a smaller input is hardly an image."""

MOST_FILTERS = 64


def save_samples(lab: Laboratory, rows: Sequence[Measured], path: Path) -> bool:
    """Write some test images of each task, with what every row says; give whether there are any."""
    images, labels, places = [], [], []
    for name, task in lab.subject.tasks.items():
        total = max(map(len, _answers(rows, name)), default=0)
        found = _images(task, lab.settings.samples, total) if total else None
        if found is not None:
            shown, targets = found
            images.append(shown)
            labels.append(targets)
            places += [(name, index) for index in range(len(targets))]
    shapes = {tuple(part.shape[1:]) for part in images}
    if len(shapes) != 1:
        return False  # no images, or of several sizes
    predictions = torch.full((len(rows), len(places)), -1, dtype=torch.int64)
    confidences = torch.zeros(len(rows), len(places))
    for number, row in enumerate(rows):
        for task_name in dict.fromkeys(name for name, _ in places):
            prediction = row.outcomes(task_name, "prediction")
            confidence = row.outcomes(task_name, "confidence")
            if prediction is None or confidence is None:
                continue
            columns = [c for c, (name, _) in enumerate(places) if name == task_name]
            chosen = spread(lab.settings.samples, len(prediction))
            predictions[number, columns] = prediction[chosen].long()
            confidences[number, columns] = confidence[chosen]
    tensors = {
        "images": torch.cat(images),
        "labels": torch.cat(labels),
        "predictions": predictions,
        "confidences": confidences,
    }
    described = {"tasks": [name for name, _ in places], "rows": [row.key for row in rows]}
    save(tensors, path, overwrite=True, metadata={"conjoin.samples": json.dumps(described)})
    return True


def _answers(rows: Sequence[Measured], task: str) -> list[Tensor]:
    found = (row.outcomes(task, "prediction") for row in rows)
    return [answers for answers in found if answers is not None]


def _images(task: TaskData, count: int, total: int) -> tuple[Tensor, Tensor] | None:
    """Give some test images as uint8 [n, H, W] or [n, H, W, 3]; None if they are none."""
    pairs = spread_pairs(task.parts["test"](), count, total, task.name)
    if not pairs:
        return None
    inputs, targets = joined(pairs)
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        return None
    if min(inputs.shape[2:]) < SMALLEST or targets.dim() != 1:
        return None
    values = inputs.detach().float().cpu()
    low, high = float(values.min()), float(values.max())
    shown = ((values - low) * (255 / max(high - low, 1e-12))).round().to(torch.uint8)
    shown = shown[:, 0] if inputs.shape[1] == 1 else shown.movedim(1, -1)
    return shown.contiguous(), targets.long().cpu()


def save_filters(
    lab: Laboratory, rows: Mapping[str, Sequence[tuple[str, Measured]]], path: Path
) -> bool:
    """Write the first convolution of every network and merged network, if it sees an image.

    Equal ones are written once, under the first name.

    Args:
        lab: of the first seed.
        rows: by group: (key, what is stored) of the rows whose networks are kept.
        path: of the file.
    """
    tensors: dict[str, Tensor] = {}
    described = []
    for group in lab.subject.groups:
        name: str | None = None
        for network in group.networks.values():
            module = network.load()
            name = _first_filters(module)
            if name is None:
                break
            weights = _shown_filters(module.get_parameter(name))
            if not any(torch.equal(weights, known) for known in tensors.values()):
                tensors[str(len(tensors))] = weights
                described.append({"model": network.name, "group": group.key})
        for row, measured in rows.get(group.key, ()):
            if name is not None and measured.network is not None:
                weights = _shown_filters(open_checkpoint(measured.network)[name])
                if not any(torch.equal(weights, known) for known in tensors.values()):
                    tensors[str(len(tensors))] = weights
                    described.append({"row": row, "group": group.key})
    if tensors:
        save(tensors, path, overwrite=True, metadata={"conjoin.filters": json.dumps(described)})
    return bool(tensors)


def _shown_filters(weights: Tensor) -> Tensor:
    return weights.detach()[:MOST_FILTERS].float().cpu().contiguous().clone()


def _first_filters(module: nn.Module) -> str | None:
    """Name the weights of the first convolution, if they can be shown as pictures."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            seen = part.in_channels in (1, 3) and min(part.kernel_size) > 1
            shown = f"{name}.weight" if name else "weight"
            return shown if seen and shown in dict(module.named_parameters()) else None
    return None
