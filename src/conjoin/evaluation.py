"""How good models are on named data sets: accuracy and loss, as records."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.arguments import as_mapping, as_module, check_weights
from conjoin.batches import Data, Inputs, batches, in_shape_of, pair_of, read_logits, run_model
from conjoin.errors import DataError, InputError
from conjoin.modules import MultiHead, TaskNetworks
from conjoin.records import Record, Split

__all__ = ["Outcomes", "Predictor", "evaluate", "evaluating", "outcomes"]

Predictor = nn.Module | Sequence[nn.Module] | Mapping[str, Any]
"""A module; a sequence of them, the ensemble; or one of both for each task (task label used)."""

_TOLD = (Mapping, TaskNetworks, MultiHead)
"""What is told the task at test time."""


_NO_LABEL = -100
"""Of a place that is not judged, in torch as in transformers."""
_NO_ANSWER = -1


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a model did on each of N examples, in the order of the data.

    Where examples have a label at each of many places, N counts the places that have one.

    Args:
        loss: float64 [N]; cross-entropy in nats, or the mean squared error of a regression.
        targets: [N, ...], as the data gave them; [N] where examples have several.
        prediction: int64 [N], the likeliest class, -1 where outputs have NaN, which is never
            right; None for a regression.
        confidence: float32 [N], the probability of that class; None for a regression.
    """

    loss: Tensor
    targets: Tensor
    prediction: Tensor | None
    confidence: Tensor | None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def correct(self) -> Tensor | None:
        """Bool [N]: whether the prediction is right; None for a regression."""
        return None if self.prediction is None else self.prediction == self.targets

    def metrics(self) -> dict[str, float]:
        """Give ``accuracy`` (percent; not for a regression) and ``loss``, means over examples."""
        values = {} if self.correct is None else {"accuracy": 100.0 * self.correct.double().mean()}
        return {name: float(v) for name, v in {**values, "loss": self.loss.mean()}.items()}


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
    """Measure accuracy (percent) and loss of every model on every task.

        accuracy = 100 mean_n [argmax_c p(c | x_n) = y_n]      loss = -mean_n log p(y_n | x_n)

    A sequence of modules is their ensemble: the mean of their probabilities. Modules run in eval
    mode, without gradients, on the device of their first parameter; their modes are put back.
    Where the targets are floating-point numbers, the task is a regression: its loss is the mean
    squared error, it has no accuracy, and an ensemble is the mean of outputs.

    A model may have a class at each of many places, as of tokens or pixels: labels are int64
    [B, ...] then, outputs [B, ..., classes] or [B, classes, ...], and each place counts as an
    example, but those of label -100 (of [B, ...] alone). So a language model that gives ``logits``
    is measured with ``({"input_ids": ids[:, :-1]}, ids[:, 1:])``; its perplexity is ``exp(loss)``.
    Its outputs take a lot of memory: choose `batch_size` by that.

    Args:
        models: name -> module, sequence of modules, or ``{task: module or sequence}``, for models
            that are told the task at test time (recorded as ``uses_task_label``), as a
            `TaskNetworks` or a `MultiHead` is; a task that is missing there is left out.
        data: task -> a loader of ``(inputs, labels)``, that pair for the whole set, or a `Dataset`
            of torch. Labels are int64 [B] or [B, ...], or float of the outputs' shape. Inputs are a
            tensor, or a tuple or a mapping of tensors for models that take several.
        split: which part of the data this is; recorded.
        seed: of the run; recorded.
        how: by model: how it was made; recorded.
        batch_size: used for whole sets.
        on_batch: called with the number of examples just done.

    Returns:
        Two records, ``accuracy`` and ``loss``, for each model and task; for a regression, ``loss``.

    Raises:
        InputError: no models or no data, or what is no module, or for none of the tasks.
        DataError: a batch that is no pair, labels out of range, or no examples at all.

    >>> images, labels = torch.eye(3), torch.arange(3)
    >>> records = evaluate({"identity": nn.Identity()}, {"eye": (images, labels)})
    >>> [(record.metric, round(record.value, 3)) for record in records]
    [('accuracy', 100.0), ('loss', 0.551)]
    """
    models = as_mapping(models, "models", '{"name": model}')
    data = as_mapping(data, "data", '{"task": loader}')
    notes = as_mapping(how, "how", '{"name": {"method": "mean"}}')
    if not models or not data:
        raise InputError("evaluate needs at least one model and one data set")
    asked = {name: _by_task(name, predictor, data) for name, predictor in models.items()}
    records = []
    for name, by_task in asked.items():
        told = isinstance(models[name], _TOLD)
        own = as_mapping(notes.get(name), f"how[{name!r}]", '{"method": "mean"}')
        for task, members in by_task.items():
            found = outcomes(members, data[task], task, batch_size=batch_size, on_batch=on_batch)
            made = {"uses_task_label": told, "networks": len(members), **own}
            for metric, value in found.metrics().items():
                records.append(Record(name, task, split, seed, metric, value, len(found), made))
    return records


def _by_task(name: str, predictor: Any, tasks: Iterable[str]) -> dict[str, list[nn.Module]]:
    """Give the members of what is to be run on each task; a task that it is not for is left out."""
    given = predictor
    if isinstance(predictor, TaskNetworks):
        given = predictor.networks
    elif isinstance(predictor, MultiHead):
        given = {task: predictor.for_task(task) for task in predictor.heads}
    if not isinstance(predictor, _TOLD):
        return dict.fromkeys(tasks, _members(given, f"the model {name!r}"))
    found = {task: given[task] for task in tasks if task in given and given[task] is not None}
    if not found:
        what = f"has networks for the tasks {', '.join(map(str, given))}, and for none of the data"
        if any(isinstance(one, Tensor) for one in given.values()):
            what = "is a state dict; load it into a network of its class first"
        raise InputError(f"the model {name!r} {what}; the data have the tasks {', '.join(tasks)}")
    return {task: _members(one, f"the model {name!r}") for task, one in found.items()}


def _members(given: Any, what: str) -> list[nn.Module]:
    alone = isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList)
    if alone or isinstance(given, str | Mapping | os.PathLike) or not isinstance(given, Iterable):
        members = [as_module(given, what)]
    else:
        members = [as_module(one, f"a member of {what}") for one in given]
    if not members:
        raise InputError(f"{what} is an ensemble without a module")
    for member in members:
        check_weights(member, type(member).__name__)
    return members


@torch.no_grad()
def outcomes(
    predictor: nn.Module | Sequence[nn.Module],
    data: Data,
    task: str,
    *,
    batch_size: int = 500,
    on_batch: Callable[[int], None] | None = None,
) -> Outcomes:
    """Run a module, or an ensemble of them, over a data set; see `evaluate`.

    Args:
        predictor: a module or a sequence of modules.
        data: a loader of pairs, or one pair for the whole set.
        task: its name, for messages.
        batch_size: used for whole sets.
        on_batch: called with the number of examples just done.

    Raises:
        InputError: an empty ensemble.
        DataError: as `evaluate`.

    >>> found = outcomes(nn.Identity(), (torch.eye(3), torch.tensor([0, 1, 1])), "eye")
    >>> found.prediction, found.correct
    (tensor([0, 1, 2]), tensor([ True,  True, False]))
    """
    members = _members(predictor, "the predictor")
    parts = []
    with evaluating(members):
        for batch in batches(data, batch_size):
            inputs, targets = pair_of(batch, task)
            found = _of_batch(members, inputs, targets, task)
            parts.append(found)
            if on_batch is not None:
                on_batch(len(targets))
    if not sum(map(len, parts)):
        raise DataError(
            f"the data of {task!r} gave no examples; a loader can be used up: pass a list"
        )
    return Outcomes(
        torch.cat([part.loss for part in parts]),
        torch.cat([part.targets for part in parts]),
        _joined([part.prediction for part in parts]),
        _joined([part.confidence for part in parts]),
    )


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into eval mode for the block; each part gets its own mode back."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def _of_batch(members: Sequence[nn.Module], inputs: Inputs, targets: Tensor, task: str) -> Outcomes:
    each = _each_output(members, inputs, task)
    if targets.is_floating_point():
        first, *others = each
        outputs = torch.stack([first, *(other.to(first.device) for other in others)])
        return _regression(outputs.mean(0), targets, task)
    labels, log_mean = targets, None
    for output in each:
        output = _at_places(output, targets, task)
        if log_mean is not None:  # members may be on several devices
            output = output.to(log_mean.device)
        labels = targets.to(output.device).flatten()
        if targets.dim() > 1 and not (there := labels != _NO_LABEL).all():
            labels, output = labels[there], output[there]
        log = output.log_softmax(1)
        log_mean = log if log_mean is None else torch.logaddexp(log_mean, log)
    assert log_mean is not None  # there are members
    log_mean -= math.log(len(members))
    _check_labels(labels, log_mean, task)
    confidence, prediction = log_mean.max(1)
    prediction = prediction.masked_fill(confidence.isnan(), _NO_ANSWER)
    loss = F.nll_loss(log_mean, labels, reduction="none").double()
    return Outcomes(loss.cpu(), labels.cpu(), prediction.cpu(), confidence.exp().cpu())


def _each_output(members: Sequence[nn.Module], inputs: Inputs, task: str) -> Iterator[Tensor]:
    """Run one member after the other: outputs of language models are large."""
    first: torch.Size | None = None
    for member in members:
        output = _outputs(member, inputs, task)
        first = first or output.shape
        if output.shape != first:
            raise DataError(
                f"on {task!r}, the members of an ensemble have outputs {list(first)}, "
                f"{list(output.shape)}"
            )
        yield output


def _outputs(member: nn.Module, inputs: Inputs, task: str) -> Tensor:
    try:
        outputs = read_logits(run_model(member, inputs))
    except Exception as error:
        error.add_note(f"This is what {type(member).__name__} raised on a batch of {task!r}.")
        raise
    if not isinstance(outputs, Tensor):
        raise DataError(
            f"on {task!r}, expected outputs [B, classes] of {type(member).__name__}; found outputs "
            f"{type(outputs).__name__}, which has no logits"
        )
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _at_places(outputs: Tensor, labels: Tensor, task: str) -> Tensor:
    """Give outputs [places, classes], with the places in the order of the labels."""
    last = outputs.dim() > 1 and outputs.shape[:-1] == labels.shape
    second = outputs.dim() > 2 and outputs.shape[:1] + outputs.shape[2:] == labels.shape
    if last and second:
        raise DataError(
            f"on {task!r}, outputs {list(outputs.shape)} could have their classes in the second or "
            f"the last dimension; give them as [{labels.numel()}, classes], and the labels as "
            f"[{labels.numel()}]"
        )
    if not last and not second:
        raise DataError(
            f"on {task!r}, expected outputs [B, classes] and int64 labels [B], or outputs "
            f"[B, ..., classes] or [B, classes, ...] and labels [B, ...]; found outputs "
            f"{list(outputs.shape)} and {labels.dtype} labels {list(labels.shape)}"
        )
    moved = outputs if last else outputs.movedim(1, -1)
    if not moved.shape[-1]:
        raise DataError(f"on {task!r}, outputs {list(outputs.shape)} have no classes")
    return moved.reshape(-1, moved.shape[-1])


def _regression(outputs: Tensor, targets: Tensor, task: str) -> Outcomes:
    targets = targets.to(outputs.device)
    outputs = in_shape_of(outputs, targets)
    if outputs.shape != targets.shape:
        raise DataError(
            f"on {task!r}, expected outputs [B, classes] and int64 labels [B], or float targets of "
            f"the outputs' shape; found outputs {list(outputs.shape)} and {targets.dtype} labels "
            f"{list(targets.shape)}"
        )
    loss = (outputs.double() - targets.double()).square().flatten(1 if targets.dim() > 1 else 0)
    loss = loss.mean(1) if loss.dim() > 1 else loss
    return Outcomes(loss.cpu(), targets.cpu(), None, None)


def _check_labels(labels: Tensor, outputs: Tensor, task: str) -> None:
    if labels.dtype != torch.int64:
        raise DataError(f"on {task!r}, expected int64 labels; found {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
        raise DataError(
            f"labels of {task!r} reach from {int(labels.min())} to {int(labels.max())}, but the "
            f"model has {outputs.shape[1]} outputs, for labels 0 to {outputs.shape[1] - 1}"
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None
