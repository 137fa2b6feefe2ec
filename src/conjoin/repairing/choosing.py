"""`repair`: the activation statistics of a merged network put right, if that is worth something."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from conjoin.arguments import as_module, as_modules, as_numbers, as_whole, check_weights
from conjoin.batches import Data, Inputs, device_of, map_inputs, size_of
from conjoin.data_statistics.execution import Program
from conjoin.errors import InputError, TraceError
from conjoin.repairing.batchnorm import has_batchnorm, reestimate_batchnorm, running_means
from conjoin.repairing.correcting import Correction, correct, named_tensors
from conjoin.repairing.held_out import EVERY, read, split
from conjoin.repairing.layers import Layers, compared, reported
from conjoin.repairing.parents import check_function, check_structure
from conjoin.repairing.plan import plan_of
from conjoin.repairing.report import Candidate, RepairReport
from conjoin.repairing.scoring import score_by_agreement, score_of
from conjoin.symmetry.tracing import trace

__all__ = ["METHODS", "repair"]

M = TypeVar("M", bound=nn.Module)

HELD_OUT = f", on every {EVERY}th example of the data, held out"

METHODS = ("auto", "reestimate", "repair", "rescale", "bias")
"""What `repair` can be asked for."""


def repair(
    merged: M,
    parents: Sequence[nn.Module],
    data: Sequence[Data] | Mapping[str, Data],
    *,
    method: str = "auto",
    validation: Mapping[str, Data] | Sequence[Data] | None = None,
    example_inputs: Inputs | None = None,
    weights: Sequence[float] | None = None,
    examples: int = 2000,
    batch_size: int = 250,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> tuple[M, RepairReport]:
    """Move the activations of a merged network to the statistics that its parents' have.

    The units of averaged networks vary less than those of either parent, more so with each layer.
    Per channel, the mean m and the standard deviation s of what a layer gives are moved to

        m* = sum_k w_k m_k        s* = sum_k w_k s_k

    where m_k and s_k are those of parent k on its own data. Weight and bias take that up: the
    result has the same structure. Layers come in the order of execution, each measured after the
    earlier ones are repaired. What is moved, by `method`:

    - ``reestimate``: running statistics of BatchNorm, re-estimated on all data as one mixture.
    - ``repair``: the same, and m and s of every linear layer and convolution without BatchNorm.
    - ``rescale``: as ``repair``, but only s.
    - ``bias``: as ``repair``, but only m; for networks that normalize afterwards (LayerNorm), and
      for quantized ones.
    - ``auto``: whichever of these is best on the validation examples, or nothing.

    Where the parents' data differ, the merged network is measured on each data set by itself, and
    averaged like its parents: like is compared with like, and the difference between the tasks is
    no part of s. A parent is not run on data of others, where it does not know what to do.

    Args:
        merged: not changed.
        parents: aligned to the order of units that `merged` has (`conjoin.align`): unit 7 of a
            layer is compared with unit 7. Not changed.
        data: a loader for each parent, its own data; or one for all in a list, for the same task.
            Labels are not used.
        method: one of `METHODS`.
        validation: a loader for each task, to measure on: mean accuracy (percent) over tasks if
            there are labels, minus the mean squared error for a regression. Without labels, one
            for each parent or one for all: minus the mean Kullback-Leibler divergence of outputs
            from the parents' if they are [B, C], else minus the mean squared distance. If None,
            every fifth example of `data` is held out and measured like that; the statistics do not
            see it.
        example_inputs: a batch of two or more to trace the network with; taken from `data` if None.
        weights: of the parents; equal if None. They are divided by their sum.
        examples: of each data set that are used, at most. Memory grows with them: one layer's
            activations of all are held.
        batch_size: used for whole data sets.
        progress: called with (steps done, steps in all).

    Returns:
        A copy in the mode of `merged`, and the report. `auto` gives the merged network's own
        weights if nothing is better. A method that was asked for is returned even if it is
        worse; the report says so first.

    Raises:
        InputError: no such method, or one with nothing to do; data sets that are not as many as
            parents; weights that are no shares.
        MismatchError: parents of another structure, or that compute something else.
        DataError: a data set without examples, or too few to hold some out.
        NonFiniteError: NaN or infinite activations; the layer and the network are named.
        TraceError: the model cannot be traced, and more than `reestimate` was asked for.

    Source: Jordan et al., REPAIR, ICLR 2023, arXiv:2211.08403.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> nets = [nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3)) for _ in range(2)]
    >>> from conjoin.merging import merge
    >>> data = [(torch.randn(500, 4), torch.zeros(500))]
    >>> fixed, report = repair(merge(nets), nets, data, method="repair")
    >>> [(layer.name, round(layer.before, 1), round(layer.after, 1)) for layer in report.layers]
    [('0', 0.5, 1.0), ('2', 0.3, 1.0)]
    """
    if method not in METHODS:
        raise InputError(f"methods are {', '.join(METHODS)}; not {method!r}")
    as_module(merged, "the merged network")
    parents = as_modules(parents, "parents")
    check_weights(merged, "the merged network")
    for number, parent in enumerate(parents, 1):
        check_weights(parent, f"parent {number}")
    if not parents:
        raise InputError("repair needs the parents: their statistics are what it aims at")
    as_whole(examples, "examples", 2)
    shares = _shares(weights, len(parents))
    for number, parent in enumerate(parents, 1):
        check_structure(merged, parent, f"parent {number}")
    sets = _on_device(read(data, len(parents), examples, batch_size), merged)
    if validation is not None:
        score = score_of(validation, parents)
    else:
        sets, out = split(sets)
        score = score_by_agreement(out, parents)
    layers = _layers(merged, parents, sets, shares, method, example_inputs)
    wanted = _applicable(merged, layers, method)
    total = len(wanted) + 2
    progress(1, total)
    results: dict[str, M] = {"none": copy.deepcopy(merged)}
    constant: dict[str, dict[str, int]] = {"none": {}}
    scores = {"none": score.of(results["none"])}
    for number, name in enumerate(wanted, 2):
        results[name], constant[name] = _repaired(merged, sets, layers, shares, name)
        scores[name] = score.of(results[name])
        progress(number, total)
    chosen = _best(scores) if method == "auto" else method
    report = RepairReport(
        method,
        chosen,
        _why(method, chosen, scores, validation is None),
        score.measure + (HELD_OUT if validation is None else ""),
        tuple(Candidate(name, value) for name, value in scores.items()),
        reported(layers, sets, shares, results["none"], results[chosen], chosen, constant[chosen]),
        tuple(layers.left.items()),
        sum(size_of(batch) for part in sets for batch in part),
        1 / EVERY if validation is None else 0.0,
    )
    progress(total, total)
    return results[chosen], report


def _layers(
    merged: nn.Module,
    parents: Sequence[nn.Module],
    sets: Sequence[Sequence[Inputs]],
    shares: Sequence[float],
    method: str,
    example_inputs: Inputs | None,
) -> Layers:
    """Trace the network and measure its parents."""
    given = _example(sets) if example_inputs is None else example_inputs
    try:
        traced = trace(merged, given)
    except TraceError as error:
        if method not in ("auto", "reestimate") or not has_batchnorm(merged):
            raise
        # Statistics of BatchNorm can be re-estimated in any module that runs.
        return Layers(None, (), {"all layers": str(error).partition(". ")[0]}, {})
    program = Program(traced)
    for number, parent in enumerate(parents, 1):
        check_function(program, parent, sets[(number - 1) % len(sets)][0], f"parent {number}")
    plan, left = plan_of(traced, named_tensors(merged))
    return Layers(program, plan, left, compared(program, plan, parents, sets, shares))


def _applicable(merged: nn.Module, layers: Layers, method: str) -> list[str]:
    """Name what is to be tried."""
    found = ["reestimate"] if has_batchnorm(merged) else []
    own = [part for part in layers.plan if part.kind == "weights"]
    found += ["repair", "rescale"] if own else []
    found += ["bias"] if any(part.bias for part in own) else []
    if method != "auto" and method not in found:
        lacking = {
            "reestimate": "no BatchNorm with running statistics",
            "bias": "no linear layer or convolution with a bias and without BatchNorm",
        }.get(method, "no linear layer or convolution without BatchNorm that can be repaired")
        raise InputError(
            f"{type(merged).__name__} has {lacking}, so {method!r} has nothing to do; 'auto' finds "
            "out what applies"
        )
    return found if method == "auto" else [method]


def _repaired(
    merged: M,
    sets: Sequence[Sequence[Inputs]],
    layers: Layers,
    shares: Sequence[float],
    method: str,
) -> tuple[M, dict[str, int]]:
    """Give a repaired copy, and how many channels of its layers were constant."""
    # Targets beside them, since two inputs in a tuple could be taken for inputs and targets.
    paired = [[(batch, torch.zeros(size_of(batch))) for batch in part] for part in sets]
    normalized = has_batchnorm(merged)
    result = reestimate_batchnorm(merged, *paired) if normalized else copy.deepcopy(merged)
    if method == "reestimate":
        return result, {}
    program = cast(Program, layers.program)
    weights = [1.0] if len(sets) == 1 else shares
    constant = correct(
        program, named_tensors(result), layers.plan, sets, layers.targets, weights,
        cast(Correction, method),
    )  # fmt: skip
    reached = {part.layer.norm.mean for part in layers.plan if part.layer.norm is not None}
    if not reached.issuperset(running_means(merged)):
        # A BatchNorm that is no layer, say one that is used twice, comes after repaired layers.
        result = reestimate_batchnorm(result, *paired)
    return result, {layer.name: count for layer, count in constant.items()}


def _best(scores: Mapping[str, float | None]) -> str:
    """Name the best; of equal ones the first, which is the network as it was."""

    def comparable(name: str) -> float:
        score = scores[name]
        return -math.inf if score is None else score

    return max(scores, key=comparable)


def _why(method: str, chosen: str, scores: Mapping[str, float | None], held_out: bool) -> str:
    before, after = (_shown(scores[name]) for name in ("none", chosen))
    where = "examples held out" if held_out else "validation data"
    if method != "auto":
        one, other = scores["none"], scores[chosen]
        worse = one is not None and (other is None or other < one)
        said = f"Worse than the merged network as it was on {where}, but" if worse else "As"
        return f"{said} {method!r} was asked for: {before} before, {after} after on {where}."
    if len(scores) == 1:
        return "Nothing was repaired: no method applies to this network."
    if chosen == "none":
        tried = {n: v for n, v in scores.items() if n != "none"}
        best = _best(tried)
        return (
            f"Nothing was repaired: the best of what was tried, {best!r}, is no better on {where} "
            f"({before} before, {_shown(scores[best])} after)."
        )
    return f"{chosen!r} is the best on {where}: {before} before, {after} after."


def _shown(score: float | None) -> str:
    return "not a number" if score is None else f"{score:.4g}"


def _shares(weights: Sequence[float] | None, parents: int) -> list[float]:
    given = [1.0] * parents if weights is None else list(as_numbers(weights, "weights"))
    if len(given) != parents or not all(w >= 0 for w in given):
        raise InputError(
            f"weights= needs {parents} finite numbers, one for each parent, none below 0; found "
            f"{given}"
        )
    if not sum(given):
        raise InputError("weights= are all 0; give at least one parent a share")
    return [weight / sum(given) for weight in given]


def _example(sets: Sequence[Sequence[Inputs]]) -> Inputs:
    for batch in (batch for part in sets for batch in part):
        if size_of(batch) > 1:
            return map_inputs(batch, lambda tensor: tensor[:2])
    raise InputError("no batch has two examples; give example_inputs, a batch of two or more")


def _on_device(sets: list[list[Inputs]], module: nn.Module) -> list[list[Inputs]]:
    device = device_of(module)
    if device is None:
        return sets

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    return [[map_inputs(batch, moved) for batch in part] for part in sets]
