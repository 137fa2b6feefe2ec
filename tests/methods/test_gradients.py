"""Gradients flow through every method that can do one block after the other."""

import pytest
import torch
from method_engine import call_with, models_of, summary_of

from conjoin.methods import METHODS, Method, Need
from conjoin.methods.strips import STRIP

# DELLA's ranks are those of a whole tensor; the rest of it is the others'.
FOUND = [row for row in METHODS.values() if row.elementwise or row.name.startswith("della")]
rows = pytest.mark.parametrize("row", FOUND, ids=[row.name for row in FOUND])
# By default too little of a few elements is left.
CHOICES = {"ties": {"density": 0.6}, "breadcrumbs": {"density": 0.6, "gamma": 0.1}}
CHOICES["breadcrumbs_ties"] = CHOICES["breadcrumbs"]
CHOICES["nearswap"] = {"t": 0.7}


def _inputs(row: Method, size: int, dtype: torch.dtype, *, base: bool) -> list[torch.Tensor]:
    """The models, and the base as the last one if there is to be one."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(4, size, generator=generator, dtype=torch.float64).to(dtype)
    tensors = models_of(row, list(drawn[1:]))
    return [*tensors, drawn[0] / 4] if base else tensors


def _function(
    row: Method, parameters: dict[str, object], inputs: list[torch.Tensor], *, base: bool
):
    """The method as a function of tensors alone: its summary stays what it is at the inputs."""
    count = len(inputs) - base
    settings = {**row.defaults, **parameters}
    if Need.WEIGHTS in row.needs:
        settings["weights"] = [0.5, 1.25, 0.75][:count]

    def given(tensors):
        fresh = {"generator": torch.Generator().manual_seed(0)}
        return {**settings, **fresh, **({"base": tensors[-1]} if base else {})}

    # Not of the inputs themselves: a threshold would be the magnitude of one of their elements.
    plain = [tensor.detach() * 0.999 for tensor in inputs]
    if row.summarize is not None:
        settings["summary"] = summary_of(row, plain[:count], given(plain))
    return lambda *tensors: call_with(row.function, list(tensors[:count]), given(tensors))


def _bases(row: Method) -> list[bool]:
    return [True] * (Need.BASE in row.needs or row.takes_base) + [False] * (
        Need.BASE not in row.needs
    )


VARIANTS = [
    {},
    {"merge": "weighted", "undecided": "positive", "rescale": "l1"},
    {"merge": "sum", "elect": "count"},
    {"rescale": "none", "select_topk": 0.5, "scale": 0.5},
    {"density": 1.0},
]


@rows
@pytest.mark.parametrize("variant", VARIANTS, ids=range(len(VARIANTS)))
def test_gradients_are_those_of_finite_differences(row, variant):
    known = {key: value for key, value in variant.items() if key in row.defaults}
    if not row.elementwise:
        # There is no summary: what restores the sum is measured at each point anew.
        known = known | {"rescale": "none"}
    if variant and not known:
        return
    for base in _bases(row):
        inputs = _inputs(row, 13, torch.float64, base=base)
        for tensor in inputs:
            tensor.requires_grad_()
        function = _function(row, CHOICES.get(row.name, {}) | known, inputs, base=base)
        result = function(*inputs)
        assert result.requires_grad
        assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_of_what_is_dropped_whole_they_are_zero(method):
    row = METHODS[method]
    inputs = _inputs(row, 13, torch.float32, base=True)
    for tensor in inputs:
        tensor.requires_grad_()
    result = _function(row, {"density": 0.0}, inputs, base=True)(*inputs)
    *found, base = torch.autograd.grad(result.sum(), inputs)
    assert all((gradient == 0).all() for gradient in found)
    assert (base == 1).all()


@rows
def test_gradients_are_there_on_both_sides_of_the_end_of_a_strip(row):
    for base in _bases(row):
        inputs = _inputs(row, STRIP + 4_000, torch.float32, base=base)
        for tensor in inputs:
            tensor.requires_grad_()
        function = _function(row, CHOICES.get(row.name, {}), inputs, base=base)
        result = function(*inputs)
        with torch.no_grad():
            assert torch.equal(function(*inputs), result)
        whole = torch.autograd.grad(result.sum(), inputs)
        assert all(found.isfinite().all() for found in whole)
        for part in (slice(0, STRIP), slice(STRIP, None)):
            assert any(found[part].count_nonzero() for found in whole)
        if row.is_random:
            continue  # masks are those of a place
        part = slice(STRIP - 50, STRIP + 50)
        few = [tensor.detach()[part].requires_grad_() for tensor in inputs]
        alone = torch.autograd.grad(function(*few).sum(), few)
        for found, expected in zip(whole, alone, strict=True):
            torch.testing.assert_close(found[part], expected)
