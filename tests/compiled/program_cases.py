"""Methods with numbers of all sizes, of which programs are made."""

import inspect

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from conjoin.compiled import Programs
from conjoin.merging.rounding import rounded
from conjoin.methods import METHODS, Need, TotalOf

few = settings(deadline=None, max_examples=30)
ELEMENTWISE = [row for row in METHODS.values() if row.elementwise]
rows = pytest.mark.parametrize("row", ELEMENTWISE, ids=[row.name for row in ELEMENTWISE])
DTYPES = [torch.bfloat16, torch.float16, torch.float32]

OTHER = {
    "linear": {"normalize": False},
    "passthrough": {"scale": 0.3},
    "slerp": {"t": 0.3},
    "nearswap": {"t": 0.01},
    "expo": {"alpha": -1.5},
    "task_arithmetic": {"scale": 0.7, "normalize": True},
    "ties": {"elect": "count", "merge": "weighted", "undecided": "positive", "scale": 1.5},
    "dare_linear": {"density": 0.3, "rescale": "l1"},
    "dare_ties": {"density": [0.3, 1.0], "merge": "sum", "rescale": "none", "scale": 0.9},
    "breadcrumbs": {"density": 0.6, "gamma": 0.2},
    "breadcrumbs_ties": {"density": 0.6, "gamma": 0.2, "merge": "weighted"},
    "sce": {"select_topk": 0.5, "merge": "sum"},
    "tall_mask": {"task": 1},
}


def bits(tensor):
    return tensor.contiguous().view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def numbers(size, dtype, generator):
    """Numbers of all sizes that this dtype has, and zeros of both signs."""
    least, most = (-6, 3) if dtype == torch.float16 else (-40, 20)
    powers = torch.empty(size).uniform_(least, most, generator=generator)
    signs = torch.randint(-1, 2, (size,), generator=generator)
    spread = signs * 10.0**powers
    near = torch.randn(size, generator=generator)
    chosen = torch.rand(size, generator=generator)
    values = torch.where(chosen < 0.3, spread, torch.where(chosen < 0.4, -0.0, near))
    return values.to(dtype)


def prepared(row, count, dtypes, size, seed, parameters):
    """Stored tensors with their base, and the keywords of the method."""
    generator = torch.Generator().manual_seed(seed)
    count = row.models or max(count, row.least)
    stored = [numbers(size, dtypes[k % len(dtypes)], generator) for k in range(count)]
    if Need.BASE in row.needs:
        # Many elements of the models are those of the base, as after training of some layers.
        base = numbers(size, dtypes[0], generator)
        same = torch.rand(size, generator=generator) < 0.2
        stored = [torch.where(same, base.to(one.dtype), one) for one in stored]
        stored.append(base)
    wide = [tensor.float() for tensor in stored]
    keywords = {**row.defaults, **parameters}
    keywords = {name: 0.25 if v is inspect.Parameter.empty else v for name, v in keywords.items()}
    if Need.WEIGHTS in row.needs:
        keywords["weights"] = [0.3, 1.0, 0.55, 2.0][:count]
    if row.summarize is not None:
        given = {"generator": torch.Generator().manual_seed(seed)}
        tensors = [*wide]
        if Need.BASE in row.needs:
            given["base"] = tensors.pop()
        wanted = inspect.signature(row.summarize).parameters
        own = {name: value for name, value in keywords.items() if name in wanted}
        keywords["summary"] = row.summarize(TotalOf(tensors, **given), **own)
    return stored, keywords


def drawn(draw, row, size):
    """Draw a case of a method: its stored tensors and keywords, and the dtype of its result."""
    parameters = OTHER.get(row.name, {}) if draw(st.booleans()) else {}
    count = draw(st.integers(2, 4))
    if isinstance(parameters.get("density"), list):
        count = len(parameters["density"])
    dtypes = draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3))
    stored, keywords = prepared(row, count, dtypes, size, draw(st.integers(0, 999)), parameters)
    return stored, keywords, draw(st.sampled_from(DTYPES))


def program_of(row, stored, keywords, result):
    """Give the program of a method, if one is made."""
    return Programs(rounded).of(
        row.function,
        keywords,
        stored=[tensor.dtype for tensor in stored],
        result=result,
        base=Need.BASE in row.needs,
    )
