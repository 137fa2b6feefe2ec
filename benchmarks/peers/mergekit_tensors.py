"""Single tensors merged by mergekit, in bfloat16 and in float64: for `benchmarks/rounding.py`.

    python benchmarks/peers/mergekit_tensors.py FOLDER

To be run with a Python that has mergekit (0.1.5), and nothing of conjoin. ``models.pt`` in the
folder has the tensors by name, and ``requests.json`` says of each method which of them are merged,
which is the base, and its parameters. Written is ``METHOD.pt`` for each, with the results by dtype.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def main(folder: Path) -> None:
    """Merge what is asked for."""
    torch.bernoulli = bernoulli  # in all of this process: mergekit draws its masks with it
    tensors = torch.load(folder / "models.pt", weights_only=True)
    for name, said in json.loads((folder / "requests.json").read_text(encoding="utf-8")).items():
        results = {
            str(dtype).removeprefix("torch."): merged(name, said, tensors, dtype)
            for dtype in (torch.bfloat16, torch.float64)
        }
        torch.save(results, folder / f"{name}.pt")


def merged(name: str, said: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """Merge once, in a dtype; the random numbers are the same in each."""
    from mergekit.merge_methods.api import merge_tensors

    torch.manual_seed(0)
    base = said["base"]
    ids = said["models"] + ([base] if base not in (None, *said["models"]) else [])
    return merge_tensors(
        [tensors[i].to(dtype) for i in ids],
        name,
        parameters=said["parameters"],
        ids=ids,
        base_index=None if base is None else ids.index(base),
        out_dtype=dtype,  # some of its methods give float32
    )


def bernoulli(chances: Tensor) -> Tensor:
    """Draw as torch's does, but the same numbers for every dtype, so that masks are the same."""
    return (torch.rand(chances.shape, dtype=torch.float64) < chances.double()).to(chances.dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
