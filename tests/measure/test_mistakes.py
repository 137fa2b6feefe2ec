"""What measures say of arguments that are none, and what they take in another form."""

import numpy as np
import pytest
import torch
from torch import nn

from conjoin.errors import DataError, InputError
from conjoin.evaluation import evaluate
from conjoin.measure import (
    activation_statistics,
    barriers,
    by_kind,
    by_layer,
    calibration_error,
    count_nonfinite,
    distances,
    interpolate,
    merging_by_depth,
    paired_interval,
    plane,
    transfer,
)


def _net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


A, B, C = map(_net, range(3))
X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
DATA = {"t": (X, Y)}
NETS = {"a": A, "b": B}


def _transfer(**changes):
    given = {"train": (X, Y), "labels": [3], "rates": [0.1], "steps": 1} | changes
    return transfer({"a": A}, validation=(X, Y), test=(X, Y), task="t", **given)


@pytest.mark.parametrize(
    ("measure", "error", "message"),
    [
        (lambda: interpolate(A, B, DATA, at=0.5), InputError, r"number of points; pass \[0.5\]"),
        (lambda: interpolate(A, B, DATA, at="many"), InputError, "at has to be a list of numbers"),
        (lambda: interpolate(A, B, DATA, names=("a",)), InputError, "names are two"),
        (lambda: interpolate(A, B, (X, Y)), InputError, "{task: data}.* not tuple"),
        (lambda: interpolate(A.state_dict(), B, DATA), InputError, "load the state dict into"),
        (lambda: interpolate("a.pt", B, DATA), InputError, "torch.nn.Module, not str"),
        (lambda: plane({**NETS, "c": C}, DATA, resolution=2.5), InputError, "resolution .* 2.5"),
        (lambda: plane([A, B, C], DATA), InputError, "models has to be a mapping"),
        (lambda: merging_by_depth([A, B], {"t": "a"}, DATA), InputError, "models has to be"),
        (lambda: merging_by_depth(NETS, "a", DATA), InputError, "own has to be a mapping"),
        (
            lambda: merging_by_depth(NETS, {"t": "a"}, DATA, layers=["0"]),
            InputError,
            r"layers_of\(model\), .* not \['0'\]",
        ),
        (lambda: by_layer(A), InputError, "rows of conjoin.distances.*not Sequential"),
        (lambda: by_kind(1), InputError, "rows of conjoin.distances.*not int"),
        (lambda: distances(A, B, chunk=0), InputError, "chunk has to be"),
        (lambda: count_nonfinite(A, "0.weight", chunk=0), InputError, "chunk has to be"),
        (lambda: barriers([A, B]), InputError, "records of interpolate"),
        (lambda: barriers(evaluate({"a": nn.Identity()}, {"t": (torch.eye(3), torch.arange(3))})),
         InputError, "none of the 2 records"),
        (lambda: activation_statistics([A, B], A, [X], task="t"), InputError, "parents has to be"),
        (lambda: activation_statistics(NETS, [A], [X], task="t"), InputError, "Module, not list"),
        (lambda: activation_statistics(NETS, A, [(X, Y)], task="t"), DataError, "without targets"),
        (lambda: activation_statistics(NETS, A, [X[:1]], task="t"), DataError, "two examples"),
        (lambda: transfer([A], (X, Y), (X, Y), (X, Y), task="t"), InputError, "starts has to be"),
        (lambda: _transfer(train=[(X, Y)]), DataError, "'t' must give pairs"),
    ],
)  # fmt: skip
def test_what_is_no_argument(measure, error, message):
    with pytest.raises(error, match=message):
        measure()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: interpolate(A, B, DATA, at=np.int64(3)), lambda: interpolate(A, B, DATA, at=3)),
        (lambda: _transfer(labels=3), _transfer),
        (lambda: _transfer(labels=np.int64(3), rates=0.1), _transfer),
        (lambda: count_nonfinite(A, "0.weight").count, lambda: 32),
        (lambda: calibration_error(iter([1.0, 0.5]), iter([1, 0])),
         lambda: calibration_error([1.0, 0.5], [1, 0])),
        *(
            (lambda inputs=inputs: activation_statistics(NETS, A, inputs, task="t"),
             lambda: activation_statistics(NETS, A, [X], task="t"))
            for inputs in (X, iter([X]))
        ),
        (lambda: paired_interval(torch.ones(4, requires_grad=True), torch.zeros(4).bfloat16()),
         lambda: paired_interval([1.0] * 4, [0.0] * 4)),
    ],
)  # fmt: skip
def test_what_is_taken_in_another_form(one, other):
    assert one() == other()
