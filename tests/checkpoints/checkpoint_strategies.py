"""What hypothesis draws: names, shapes, dtypes and tensors that files can hold."""

import math

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from conjoin.checkpoints.safetensors_header import CODES

# A disk that is busy with something else may take its time to flush.
on_disk = settings(deadline=None, max_examples=50)

ODD_NAMES = (
    "",
    " ",
    ".",
    "a.",
    "\N{GREEK SMALL LETTER ALPHA}.weight",
    'quote"\\',
    "tab\t\n\0",
    "[0]*?",
)

# Control and unassigned characters too, but no surrogates, which are not text.
names = st.one_of(
    st.sampled_from(ODD_NAMES), st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
).filter(lambda name: name not in ("__metadata__", "format", "conjoin.order", "pt"))
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from([dtype.torch for dtype in CODES.values()])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape, dtype = draw(shapes), draw(dtypes)
    nbytes = math.prod(shape) * dtype.itemsize
    if dtype == torch.bool:  # other bytes than 0 and 1 are undefined behaviour
        return torch.tensor(
            draw(st.lists(st.booleans(), min_size=nbytes, max_size=nbytes)), dtype=dtype
        ).reshape(shape)
    raw = bytearray(draw(st.binary(min_size=nbytes, max_size=nbytes)))
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=torch.uint8).clone().view(dtype).reshape(shape)


state_dicts = st.dictionaries(names, tensors(), max_size=5)


def bits(tensor: Tensor) -> tuple[object, ...]:
    """Everything about a tensor, comparable: NaNs equal themselves, and -0.0 differs from 0.0."""
    flat = tensor.detach().contiguous().reshape(-1)
    data = bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""
    return tuple(tensor.shape), tensor.dtype, data
