"""How good models are on named data sets: accuracy and loss, as records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.errors import DataError, InputError
from conjoin.records import Record, Split

__all__ = ["Data", "Predictor", "batches", "evaluate"]

Data = Iterable[Any] | tuple[Tensor, Tensor]
"""A loader of ``(inputs, labels)`` batches, or the two tensors of a whole set."""

Predictor = nn.Module | Sequence[nn.Module] | Mapping[str, Any]
"""A module; a sequence of them, the ensemble; or one of both for each task (task label used)."""


def evaluate(
    models: Mapping[str, Predictor],
    data: Mapping[str, Data],
    *,
    split: Split = "test",
    seed: int = 0,
    how: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 500,
    on_batch: Callable[[int], None] | None = None,
) -> list[Record]:
    """Measure accuracy (percent) and loss (mean cross-entropy, nats) of every model on every task.

        accuracy = 100 mean_n [argmax_c p(c | x_n) = y_n]      loss = -mean_n log p(y_n | x_n)

    A sequence of modules is their ensemble: the mean of their probabilities. Modules run in eval
    mode, without gradients, on the device of their first parameter; their modes are put back.

    Args:
        models: name -> module, sequence of modules, or ``{task: module or sequence}``, for models
            that are told the task at test time (recorded as ``uses_task_label``); a task that is
            missing there is left out.
        data: task -> a loader of ``(inputs, labels)``, or a pair of tensors. Labels are int64 [B].
        split: which part of the data this is; recorded.
        seed: of the run; recorded.
        how: by model: how it was made; recorded.
        batch_size: used for pairs of tensors.
        on_batch: called with the number of examples just done.

    Returns:
        Two records, ``accuracy`` and ``loss``, for each model and task.

    Raises:
        InputError: no models or no data.
        DataError: a batch that is no pair, labels out of range, or no examples at all.

    >>> images, labels = torch.eye(3), torch.arange(3)
    >>> records = evaluate({"identity": nn.Identity()}, {"eye": (images, labels)})
    >>> [(record.metric, round(record.value, 3)) for record in records]
    [('accuracy', 100.0), ('loss', 0.551)]
    """
    if not models or not data:
        raise InputError("evaluate needs at least one model and one data set")
    records = []
    for name, predictor in models.items():
        for task, task_data in data.items():
            told = isinstance(predictor, Mapping)
            chosen = predictor.get(task) if isinstance(predictor, Mapping) else predictor
            if chosen is None:
                continue
            members = [chosen] if isinstance(chosen, nn.Module) else list(chosen)
            accuracy, loss, count = _measure(
                members, batches(task_data, batch_size), task, on_batch
            )
            made = {"uses_task_label": told, "networks": len(members), **(how or {}).get(name, {})}
            for metric, value in (("accuracy", accuracy), ("loss", loss)):
                records.append(Record(name, task, split, seed, metric, value, count, made))
    return records


def batches(data: Data, batch_size: int) -> Iterable[Any]:
    """Give batches of a pair of tensors; a loader is given back as it is.

    >>> [len(labels) for _, labels in batches((torch.zeros(5, 2), torch.zeros(5)), 2)]
    [2, 2, 1]
    """
    if (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(part, Tensor) for part in data)
    ):
        inputs, labels = data
        if len(inputs) != len(labels):
            raise DataError(f"{len(inputs)} inputs but {len(labels)} labels")
        return zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    return data


@torch.no_grad()
def _measure(
    members: Sequence[nn.Module],
    loader: Iterable[Any],
    task: str,
    on_batch: Callable[[int], None] | None,
) -> tuple[float, float, int]:
    if not members:
        raise InputError("an ensemble needs at least one module")
    modes = [(part, part.training) for member in members for part in member.modules()]
    right, loss, count = 0, 0.0, 0
    try:
        for member in members:
            member.eval()
        for batch in loader:
            inputs, labels = _pair(batch, task)
            logs = torch.stack([_log_probabilities(member, inputs) for member in members])
            log_mean = logs.logsumexp(0) - torch.log(torch.tensor(float(len(members))))
            labels = labels.to(log_mean.device)
            _check_labels(labels, log_mean, task)
            right += int((log_mean.argmax(1) == labels).sum())
            loss += float(F.nll_loss(log_mean.double(), labels, reduction="sum"))
            count += len(labels)
            if on_batch is not None:
                on_batch(len(labels))
    finally:
        for part, training in modes:
            part.training = training
    if count == 0:
        raise DataError(
            f"the data of {task!r} gave no examples; a loader can be used up: pass a list"
        )
    return 100.0 * right / count, loss / count, count


def _log_probabilities(member: nn.Module, inputs: Tensor) -> Tensor:
    first = next(member.parameters(), None)
    outputs = member(inputs if first is None else inputs.to(first.device))
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(
            f"expected outputs [B, classes] of {type(member).__name__}; found outputs {found}"
        )
    return outputs.float().log_softmax(1)


def _pair(batch: Any, task: str) -> tuple[Tensor, Tensor]:
    if (
        isinstance(batch, Sequence)
        and len(batch) == 2
        and all(isinstance(b, Tensor) for b in batch)
    ):
        return batch[0], batch[1]
    raise DataError(
        f"the data of {task!r} must give pairs (inputs, labels) of tensors, "
        f"not {type(batch).__name__}"
    )


def _check_labels(labels: Tensor, outputs: Tensor, task: str) -> None:
    if outputs.dim() != 2 or labels.shape != outputs.shape[:1] or labels.dtype != torch.int64:
        raise DataError(
            f"on {task!r}, expected outputs [B, classes] and int64 labels [B]; found outputs "
            f"{list(outputs.shape)} and {labels.dtype} labels {list(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
        raise DataError(
            f"labels of {task!r} reach from {int(labels.min())} to {int(labels.max())}, but the "
            f"model has {outputs.shape[1]} outputs, for labels 0 to {outputs.shape[1] - 1}"
        )
