"""`merge_with_data`: models and unlabelled data of each -> one network, and how it came about."""

import fnmatch
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from numbers import Integral, Real
from typing import Any, Literal

import torch  # noqa: F401 (of the example)
from torch import nn

from conjoin.alignment import Alignment
from conjoin.arguments import as_modules, as_numbers, as_whole
from conjoin.batches import Data, size_of
from conjoin.data_statistics.layers import Layer
from conjoin.errors import InputError
from conjoin.fitting.prepared import Prepared, Settings, prepare
from conjoin.fitting.report import Choice, FitReport
from conjoin.fitting.ways import WAYS, Private, together, with_state
from conjoin.repairing.scoring import Score, score_by_agreement, score_of
from conjoin.symmetry import Layout, Symmetries

__all__ = ["merge_with_data"]

ALIGNMENTS = ("weights", "activations")
RIDGES = (0.03, 0.003, 0.3)
"""Of these, ``auto`` takes what scores best."""

FEW = 250
"""Examples of each model that settings are chosen with; the result is made with all."""


def merge_with_data(
    models: Sequence[nn.Module],
    data: Sequence[Data],
    method: str = "least_squares",
    *,
    align: str | Sequence[Alignment] | None = "auto",
    weights: Sequence[float] | Literal["auto"] | None = None,
    ridge: float | Literal["auto"] = 0.03,
    rounds: int = 3,
    non_diagonal: float = 0.9,
    batchnorm: Literal["keep", "fold", "private"] = "keep",
    private: int | float | str | Sequence[str] = 0,
    names: Sequence[str] | None = None,
    validation: Sequence[Data] | Mapping[str, Data] | None = None,
    symmetries: Symmetries | Layout | None = None,
    examples: int = 2000,
    memory: float = 4e9,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> tuple[nn.Module, FitReport]:
    """Make one network of several trained ones, with unlabelled data of each.

    ``least_squares`` is the most accurate way without training that we know of. Layer after layer,
    it finds the weights that, on what the merged network itself gives the layer, come closest to
    what each parent gives on its own data; see `conjoin.fitting.least_squares`. Layers are linear
    layers, convolutions and normalizations of any model that can be traced; all else is the mean of
    the aligned models.

    ``regmean`` and ``fisher`` are for comparison: see `conjoin.fitting.regmean` and
    `conjoin.fitting.fisher`. They use the parents' own activations, each layer by itself.

    Args:
        models: two or more of one structure; not changed.
        data: a loader of each model: batches of inputs, or of ``(inputs, labels)``. Labels are not
            looked at.
        method: ``least_squares``, ``regmean`` or ``fisher``.
        align: what the models are aligned by first (a method of `conjoin.align`), None for
            models that are aligned already, alignments of them, or ``auto``: by weights or by
            activations, whatever scores better.
        weights: how much each model counts, equally by default. ``auto`` gives more to the model
            that loses most, as long as the score gets better.
        ridge: of least squares: how strongly weights are held to the mean of the models', relative
            to the mean second moment of a layer's inputs. ``auto`` takes what scores best.
        rounds: of the fit where a ReLU follows; 0 for plain least squares.
        non_diagonal: of RegMean: what is left of a Gram matrix off its diagonal.
        batchnorm: ``keep``: it has the statistics of the merged network, or, without weight and
            bias of its own, those that give the fit, as the report says; with ``regmean`` and
            ``fisher`` they are re-estimated. ``fold``: where a BatchNorm alone reads what a linear
            layer or a convolution gives, it is folded into that layer of each aligned model before
            anything else. The structure stays: such a BatchNorm gives what it gets, its bias being
            that of a layer without one. Others are kept, and the report says why. By least squares
            both give the same function (95.9 and 95.9 % on two tasks): keep it to train on, to
            re-estimate or to repair; fold it to export or quantize, and do not re-estimate it then
            (90.5). Fisher is better kept (81.9, folded 66.2), and so is RegMean at its best (89.3
            with ``non_diagonal=0.5``, folded 80.3; 86.3 and 88.9 with 0.9). ``private``, with least
            squares: every task has its own, with a scale and a shift of each channel that are
            fitted to it; all other weights are shared. The result is a `TaskNetworks`.
        private: with least squares, layers that stay apart, one for each model's task, fitted to it
            alone: so many of the last ones, a name or pattern or several, or the smallest ones that
            have together at most this share of the weights of all layers, such as 0.05 (but one
            layer at least): in most networks those near the inputs, the head and norms. The result
            is a `TaskNetworks`, which has to be told the task; `conjoin.route` makes it infer it.
        names: of the tasks, for `private`; "0", "1", ... by default.
        validation: labelled data of each task, that choices are scored on by accuracy. Without,
            they are scored by how near the outputs are to the models' own on held-out inputs.
        symmetries: what `conjoin.find_symmetries` gave; found on the data otherwise.
        examples: of each model, at most. One in five of them is held out: a layer that the fit
            makes worse there keeps the mean of the models.
        memory: bytes that activations, or a matrix of second moments, may take. Beyond, activations
            are computed again for each layer; a layer with a larger matrix is solved by that of its
            rows, or by iterations: see `conjoin.fitting.solving.solve`.
        seed: of the search for the alignment.
        progress: called with (layers done, layers in all), of all fits.

    Returns:
        A module of the models' class in eval mode, or a `TaskNetworks`; and what was done.

    Raises:
        InputError: fewer than two models, not as many data sets, an unknown method, numbers out of
            range, or models without their weights or that cannot be copied.
        DataError: a data set has too few examples.
        MismatchError: the models differ in structure, or compute different things with tensors of
            one structure: another nonlinearity, say.
        NonFiniteError: weights or activations are NaN or infinite.
        TraceError: the models cannot be traced, or go through the examples one by one.

    >>> a = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x = torch.randn(40, 4)
    >>> merged, report = merge_with_data([a, a], [[x], [x]])     # of one network with itself
    >>> bool(torch.allclose(merged(x), a(x), atol=1e-4)), len(report.layers)
    (True, 2)
    """
    began = time.perf_counter()
    if method not in WAYS:
        raise InputError(f"methods that merge with data are {', '.join(WAYS)}, not {method!r}")
    if isinstance(private, Real):  # NumPy's numbers too
        private = int(private) if isinstance(private, Integral) else float(private)
    rounds, examples = as_whole(rounds, "rounds"), as_whole(examples, "examples", 1)
    _check(method, ridge, private, batchnorm)
    models = as_modules(models, "models")
    prepared = prepare(
        models, data, align, names, symmetries, examples, memory, seed, progress,
        folded=batchnorm == "fold",
    )  # fmt: skip
    apart = Private(_private(prepared, private), batchnorm == "private")
    count = len(prepared.models)
    settings = Settings(
        align=ALIGNMENTS[0] if align == "auto" else align if isinstance(align, str) else None,
        weights=_shares([1.0] * count if weights is None or weights == "auto" else weights, count),
        ridge=RIDGES[0] if ridge == "auto" else float(ridge),
        rounds=rounds,
        non_diagonal=non_diagonal,
    )
    choices: dict[Settings, float] = {}
    scored_by = ""
    if "auto" in (align, weights, ridge):
        score = _score(prepared, validation)
        scored_by = score.measure

        def best_of(options: Iterable[Settings]) -> Settings:
            for one in options:
                if one not in choices:
                    made = WAYS[method](prepared, one, Private(), FEW).networks[0]
                    # Data of the caller fit what the caller gave; held-out data are precise.
                    found = score.of(made if validation is None else _as_given(prepared, made))
                    choices[one] = float("-inf") if found is None else found
            return max(choices, key=lambda one: choices[one])

        if align == "auto":
            settings = best_of(replace(settings, align=one) for one in ALIGNMENTS)
        if ridge == "auto":
            settings = best_of(replace(settings, ridge=one) for one in RIDGES)
        if weights == "auto":
            settings = _weighted(settings, count, best_of)
    final = WAYS[method](prepared, settings, apart, examples)
    networks = [_as_given(prepared, network) for network in final.networks]
    named = dict(zip(prepared.names, networks, strict=bool(apart)))
    result = together(named, apart, prepared.layers) if apart else networks[0]
    return result, FitReport(
        method,
        {
            **_named(method, settings),
            "batchnorm": batchnorm,
            "private": [layer.name for layer in apart.layers],
        },
        tuple(final.layers),
        prepared.objectives(settings.align),
        tuple(Choice(_named(method, one), value) for one, value in choices.items()),
        scored_by,
        tuple(sum(map(size_of, part)) for part in prepared.data),
        tuple(sum(map(size_of, part)) for part in prepared.held),
        time.perf_counter() - began,
        prepared.folding.folded if prepared.folding else {},
        prepared.folding.kept if prepared.folding else {},
        final.solved,
    )


def _score(prepared: Prepared, validation: Sequence[Data] | Mapping[str, Data] | None) -> Score:
    if validation is not None:
        return score_of(validation, prepared.original)
    return score_by_agreement(prepared.held, prepared.models)


def _as_given(prepared: Prepared, network: nn.Module) -> nn.Module:
    """Give a network in the dtypes of the models that were given."""
    return with_state(prepared.original[0], network.state_dict())


def _weighted(
    settings: Settings, count: int, best_of: Callable[[Iterable[Settings]], Settings]
) -> Settings:
    """Give more to one model after the other, as long as the score gets better."""
    best = best_of([settings])
    for number in range(count):
        while True:
            raised = [w * (2 if n == number else 1) for n, w in enumerate(best.weights)]
            tried = replace(best, weights=_shares(raised, count))
            if best_of([tried]) is not tried:
                break
            best = tried
    return best


def _named(method: str, settings: Settings) -> dict[str, Any]:
    shares = tuple(round(weight, 4) for weight in settings.weights)
    found: dict[str, Any] = {"align": settings.align or "no", "weights": shares}
    if method == "least_squares":
        return {**found, "ridge": settings.ridge, "rounds": settings.rounds}
    return {**found, "non_diagonal": settings.non_diagonal} if method == "regmean" else found


def _shares(weights: Sequence[float], count: int) -> tuple[float, ...]:
    found = as_numbers(weights, "weights")
    if len(found) != count or not all(0 < w < float("inf") for w in found):
        raise InputError(f"weights= needs {count} positive numbers, one for each model: {found}")
    # Rounded, so that doubling and halving lead back to what was tried before.
    return tuple(round(weight / sum(found), 12) for weight in found)


def _private(prepared: Prepared, given: int | float | str | Sequence[str]) -> Sequence[Layer]:
    layers = prepared.layers
    if isinstance(given, float):
        return _smallest(prepared, given)
    if isinstance(given, int):
        if given > len(layers):
            raise InputError(f"private= is at most the number of layers, {len(layers)}")
        return layers[len(layers) - given :]
    names = [layer.name for layer in layers]
    found: set[str] = set()
    for pattern in [given] if isinstance(given, str) else given:
        if not (matched := fnmatch.filter(names, pattern)):
            raise InputError(f"private={pattern!r} matches no layer; there are {', '.join(names)}")
        found.update(matched)
    return [layer for layer in layers if layer.name in found]


def _smallest(prepared: Prepared, share: float) -> Sequence[Layer]:
    """Give the smallest layers with at most this share of all layers' weights; one at least."""
    state = prepared.models[0].state_dict()
    sizes = {layer: state[layer.weight].numel() if layer.weight else 0 for layer in prepared.layers}
    smallest = sorted(sizes, key=lambda one: sizes[one])
    room = share * sum(sizes.values())
    taken = accumulate(sizes[layer] for layer in smallest)
    count = sum(weights <= room for weights in taken)
    found = set(smallest[: max(1, count)] if share else ())
    return [layer for layer in prepared.layers if layer in found]


def _check(
    method: str, ridge: Any, private: int | float | str | Sequence[str], batchnorm: str
) -> None:
    if ridge != "auto" and not 0 <= ridge < float("inf"):
        raise InputError(f"ridge= must be 0 or more, or 'auto', not {ridge}")
    if isinstance(private, int) and private < 0:
        raise InputError(f"private= as a number of layers is 0 or more, not {private}")
    if isinstance(private, float) and not 0 <= private <= 1:
        raise InputError(f"private= as a share of the weights is between 0 and 1, not {private}")
    if batchnorm not in ("keep", "fold", "private"):
        raise InputError(f"batchnorm= is 'keep', 'fold' or 'private', not {batchnorm!r}")
    if (private or batchnorm == "private") and method != "least_squares":
        raise InputError("private layers and BatchNorm are for least_squares")
