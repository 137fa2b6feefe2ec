"""Fine-tuning on a few labels of a new domain: how good a start each network is.

Every start is trained on the same n labelled examples with every learning rate; the rate is chosen
on the validation part, and only the network of that rate is run on the test part.

    SGD with momentum 0.9 on the whole network, rate_t = rate (1 + cos(pi t / steps)) / 2

The loss is cross-entropy for int64 labels, mean squared error for float targets. BatchNorm is in
train mode, as in usual fine-tuning: a new domain has other statistics than the start's.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.arguments import as_mapping
from conjoin.batches import (
    Data,
    Inputs,
    device_of,
    in_shape_of,
    map_inputs,
    pair_of,
    read_logits,
    run_model,
)
from conjoin.errors import DataError, InputError
from conjoin.evaluation import Outcomes, evaluating, outcomes
from conjoin.records import Record

__all__ = ["Transferred", "balanced_order", "transfer", "transfer_outcomes"]


@dataclass(frozen=True, eq=False, slots=True)
class Transferred:
    """What a start has become after fine-tuning.

    Args:
        start: its name.
        labels: how many labelled examples it was trained on.
        rate: the learning rate that was chosen on the validation part; 0 without training.
        outcomes: on the test part.
    """

    start: str
    labels: int
    rate: float
    outcomes: Outcomes


@dataclass(frozen=True)
class _Recipe:
    rate: float
    steps: int
    batch_size: int
    seed: int


def transfer(
    starts: Mapping[str, nn.Module],
    train: tuple[Inputs, Tensor],
    validation: Data,
    test: Data,
    *,
    task: str,
    labels: int | Sequence[int] = (10, 20, 50, 100),
    rates: float | Sequence[float] = (0.003, 0.01, 0.03),
    steps: int = 60,
    batch_size: int = 50,
    classes: int | None = None,
    new_head: bool = False,
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Record]:
    """Fine-tune every start on few labels, and measure it on the test part.

    All arguments but `how` are those of `transfer_outcomes`.

    Args:
        how: recorded besides ``view``, ``start``, ``labels`` and ``rate``.

    Returns:
        For each start and number of labels, ``accuracy`` (percent; not for a regression) and
        ``loss`` of the model ``transfer: START at N labels``.

    Raises:
        InputError, DataError: as `transfer_outcomes`.

    >>> x, y = torch.eye(2), torch.arange(2)
    >>> records = transfer({"zero": nn.Linear(2, 2)}, (x, y), (x, y), (x, y), task="t", labels=[2])
    >>> [(record.model, record.metric, record.count) for record in records]
    [('transfer: zero at 2 labels', 'accuracy', 2), ('transfer: zero at 2 labels', 'loss', 2)]
    """
    found = transfer_outcomes(
        starts, train, validation, test, task=task, labels=labels, rates=rates, steps=steps,
        batch_size=batch_size, classes=classes, new_head=new_head, seed=seed, on_done=on_done,
    )  # fmt: skip
    records = []
    for one in found:
        settings = {"start": one.start, "labels": one.labels, "rate": one.rate}
        made = {"view": "transfer", **(how or {}), **settings}
        model = f"transfer: {one.start} at {one.labels} labels"
        for metric, value in one.outcomes.metrics().items():
            count = len(one.outcomes)
            records.append(Record(model, task, "test", seed, metric, value, count, made))
    return records


def transfer_outcomes(
    starts: Mapping[str, nn.Module],
    train: tuple[Inputs, Tensor],
    validation: Data,
    test: Data,
    *,
    task: str,
    labels: int | Sequence[int] = (10, 20, 50, 100),
    rates: float | Sequence[float] = (0.003, 0.01, 0.03),
    steps: int = 60,
    batch_size: int = 50,
    classes: int | None = None,
    new_head: bool = False,
    seed: int = 0,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[Transferred]:
    """Fine-tune every start on few labels, and say what it does on each test example.

    The n examples are the first of `balanced_order`, so those of fewer labels are among those of
    more, and examples, batches and the seed of dropout are the same for every start and rate. The
    chosen rate has the best accuracy on the validation part (a regression: the smallest loss), of
    equal ones the smallest loss, then the smallest rate; one whose loss is not finite is chosen
    only if all are. On a CPU, the same arguments give the same bits, whatever the order of starts.

    Args:
        starts: name -> network; not changed. It is trained on its own device.
        train: all examples that labels may be drawn from: inputs, and int64 labels [N] or float
            targets.
        validation: what the rate is chosen on; gone through for every rate, so no iterator.
        test: gone through once for each start and number of labels.
        task: name of the data, for messages.
        labels: how many examples to train on, one number or several; 0 is the start as it is, also
            with `new_head`.
        rates: learning rates to choose from, one or several.
        steps: of each training.
        batch_size: of each training; with fewer examples, a batch is all of them. An epoch leaves
            out what does not fill a batch, which differs from epoch to epoch.
        classes: number of outputs that the task needs; by default, as many as `train` has labels.
            Without `new_head`, a network may have more unless this is given.
        new_head: replace the last `nn.Linear` by one of `classes` outputs, for labels that mean
            something else than those that the start was trained on. Weights and bias are zero, so
            that no start is lucky in its draw.
        seed: of examples, batches and dropout.
        on_done: called with the number of trainings just done.

    Raises:
        InputError: no starts, no validation part, a number out of range, or a new head for a
            network without `nn.Linear`, or for a regression without `classes`.
        DataError: more labels than examples, labels outside a network's outputs, or batches that
            BatchNorm cannot use.

    >>> x, y = torch.eye(2), torch.arange(2)
    >>> (one,) = transfer_outcomes({"a": nn.Linear(2, 2)}, (x, y), (x, y), (x, y), task="t",
    ...                            labels=[2], rates=[1.0], new_head=True)
    >>> one.labels, one.rate, one.outcomes.correct
    (2, 1.0, tensor([True, True]))
    """
    counts: list[int] = np.atleast_1d(labels).tolist()
    speeds: list[float] = np.atleast_1d(rates).tolist()
    _check(starts, train, validation, counts, speeds, steps, batch_size, task)
    inputs, targets = train
    order = balanced_order(targets, seed)
    outputs = _new_outputs(targets, classes) if new_head and any(counts) else None

    def each() -> Iterator[Transferred]:
        for name, start in starts.items():
            begin = start if outputs is None else _with_new_head(start, outputs)
            for count in counts:
                network, rate = start, 0.0
                if count:
                    at = order[:count]
                    few = map_inputs(inputs, lambda tensor, at=at: tensor[at]), targets[at]
                    _check_outputs(begin, name, few, classes, task)
                    mixed = _mix(seed, count)
                    recipes = [_Recipe(rate, steps, batch_size, mixed) for rate in speeds]
                    network, rate = _best(begin, few, recipes, validation, task)
                found = Transferred(name, count, rate, outcomes(network, test, task))
                if on_done is not None and count:
                    on_done(len(speeds))
                yield found

    return each()


def balanced_order(targets: Tensor, seed: int) -> Tensor:
    """Give a random order whose every beginning has the classes as equally often as can be.

    Classes, in an order drawn once, take turns; in each, examples are in random order. A class
    that is used up drops out. Float targets are just shuffled.

    Args:
        targets: int64 [N], or float targets [N, ...].
        seed: of the order.

    Returns:
        Indices, int64 [N].

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[balanced_order(labels, seed=0)].bincount()
    tensor([4, 2])
    >>> labels[balanced_order(labels, seed=0)[:4]].bincount()
    tensor([2, 2])
    """
    generator = torch.Generator().manual_seed(_mix(seed))
    order = torch.randperm(len(targets), generator=generator)
    if targets.is_floating_point():
        return order
    found = targets.cpu().unique()
    place = torch.empty(len(order), dtype=torch.int64)
    for turn, which in enumerate(torch.randperm(len(found), generator=generator).tolist()):
        members = (targets.cpu()[order] == found[which]).nonzero()[:, 0]
        place[members] = torch.arange(len(members)) * len(found) + turn
    return order[place.argsort()]


def _best(
    start: nn.Module,
    few: tuple[Inputs, Tensor],
    recipes: Sequence[_Recipe],
    validation: Data,
    task: str,
) -> tuple[nn.Module, float]:
    """Give the network of the best rate on the validation part, and that rate."""
    best: tuple[tuple[float, ...], nn.Module, float] | None = None
    for recipe in recipes:
        network, finite = _fine_tuned(start, few, recipe, task)
        values = outcomes(network, validation, task).metrics()
        finite = finite and math.isfinite(values["loss"])
        loss = values["loss"] if finite else math.inf
        rank = (float(not finite), -values.get("accuracy", 0.0), loss, recipe.rate)
        if best is None or rank < best[0]:
            best = rank, network, recipe.rate
    if best is None:
        raise InputError("transfer needs at least one learning rate")
    return best[1], best[2]


def _fine_tuned(
    start: nn.Module, few: tuple[Inputs, Tensor], recipe: _Recipe, task: str
) -> tuple[nn.Module, bool]:
    """Give a trained copy, and whether every loss was finite; it stops at the first that is not."""
    network = copy.deepcopy(start).train().requires_grad_(True)
    optimizer = torch.optim.SGD(network.parameters(), recipe.rate, momentum=0.9)
    inputs, targets = few
    with torch.enable_grad(), _seeded(device_of(network), recipe.seed):
        for step, at in enumerate(_batches(len(targets), recipe)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * (1 + math.cos(math.pi * step / recipe.steps)) / 2
            batch = map_inputs(inputs, lambda tensor, at=at: tensor[at])
            optimizer.zero_grad(set_to_none=True)
            loss = _loss(_outputs(network, batch, task), targets[at])
            if not math.isfinite(loss.item()):
                return network, False
            loss.backward()
            optimizer.step()
    return network, True


@contextmanager
def _seeded(device: torch.device | None, seed: int) -> Iterator[None]:
    """Seed the generators that nn.Dropout draws from, the global ones, for the block alone."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:  # torch.manual_seed would leave the other devices changed
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


def _batches(count: int, recipe: _Recipe) -> Iterator[Tensor]:
    """Give indices of `steps` full batches; each epoch is in a new order."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch_size, count)
    left = recipe.steps
    while left:
        # A batch of what is left over could be a single example, which BatchNorm cannot use.
        whole = torch.randperm(count, generator=generator).split(size)[: min(count // size, left)]
        yield from whole
        left -= len(whole)


def _outputs(network: nn.Module, batch: Inputs, task: str) -> Tensor:
    try:
        return read_logits(run_model(network, batch))  # type: ignore[no-any-return]  # checked
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise DataError(
                f"on {task!r}, BatchNorm cannot be trained on one example at a time; "
                "use 2 labels and a batch_size of 2, or more"
            ) from error
        raise


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    targets = targets.to(outputs.device)
    if not targets.is_floating_point():
        return F.cross_entropy(outputs, targets)
    return F.mse_loss(in_shape_of(outputs, targets), targets.to(outputs.dtype))


def _new_outputs(targets: Tensor, classes: int | None) -> int:
    if classes is not None:
        return classes
    if targets.is_floating_point():
        raise InputError("a new head for a regression needs classes=, its number of outputs")
    return int(targets.max()) + 1


def _with_new_head(start: nn.Module, outputs: int) -> nn.Module:
    """Give a copy whose last `nn.Linear` is replaced by one of zeros."""
    network = copy.deepcopy(start)
    linear = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise InputError(f"{type(start).__name__} has no nn.Linear whose place a new head can take")
    name, old = linear[-1]
    head: nn.Linear = nn.utils.skip_init(  # unlike nn.Linear(...), it draws no random numbers
        nn.Linear, old.in_features, outputs, device=old.weight.device, dtype=old.weight.dtype
    )
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if not name:
        return head
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, head)
    return network


def _check(
    starts: Mapping[str, nn.Module],
    train: tuple[Inputs, Tensor],
    validation: Data | None,
    labels: Sequence[int],
    rates: Sequence[float],
    steps: int,
    batch_size: int,
    task: str,
) -> None:
    if not as_mapping(starts, "starts", '{"mean": network}'):
        raise InputError("transfer needs at least one start")
    if validation is None:
        raise InputError(
            f"transfer to {task!r} needs a validation part, which the learning rate is chosen on"
        )
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise InputError(f"rates must be positive learning rates, at least one; got {list(rates)}")
    if steps < 1 or batch_size < 1:
        raise InputError(f"steps and batch_size must be 1 or more; got {steps} and {batch_size}")
    _, targets = pair_of(train, task)
    if targets.dim() > 1 and not targets.is_floating_point():
        raise DataError(
            f"transfer to {task!r} takes one label for each example; found labels "
            f"{list(targets.shape)}"
        )
    if min(labels, default=0) < 0:
        raise InputError(f"numbers of labels must be 0 or more; got {list(labels)}")
    if max(labels, default=0) > len(targets):
        raise DataError(
            f"{max(labels)} labels of {task!r} are asked for, but its training part has "
            f"{len(targets)}; ask for fewer"
        )


def _check_outputs(
    network: nn.Module, name: str, few: tuple[Inputs, Tensor], classes: int | None, task: str
) -> None:
    outcomes(network, few, task)  # it says what does not fit
    if classes is None:
        return
    with evaluating([network]), torch.no_grad():
        first = map_inputs(few[0], lambda tensor: tensor[:1])
        found = read_logits(run_model(network, first)).shape[-1]
    if found != classes:
        raise DataError(
            f"{name!r} has {found} outputs, but {task!r} has {classes} classes; new_head=True "
            "gives it a head of its own"
        )


def _mix(*numbers: int) -> int:
    """Give one seed for a tuple of numbers, so that near tuples get unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
