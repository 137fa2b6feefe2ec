"""What another package, `rebasin`, may reorder in the networks of the zoo, and if it is right.

    python benchmarks/zoo_peer.py [--family own] [--only PATTERN] [--output FILE.jsonl] [--table]

To be run with a Python that has rebasin 0.0.47 besides what zoo.py needs. It has the same options,
the same models and the same check, and writes the same lines: rebasin says which parameters move
together, each of its permutations is drawn at random and applied by its own code, and the outputs
are compared in float64, running statistics being random. A model in which it finds nothing is not
counted as kept.
"""

import copy
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from zoo import SEED, main_of
from zoo_models import builds
from zoo_models.checking import (
    BAR,
    batch_of,
    batch_size_of,
    error_between,
    outputs_of,
    randomized,
)

from conjoin.batches import Inputs, map_inputs

__all__ = ["main", "measure"]


def measure(family: str, name: str) -> dict[str, Any]:
    """Let rebasin find what may be reordered in one model, and check it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs = builds(family)[name]()
    generator = torch.Generator().manual_seed(SEED)
    example = randomized(model, generator)
    del model
    changed = copy.deepcopy(example)
    began = time.process_time()
    groups, share = _reordered(example, changed, inputs, generator)
    seconds = time.process_time() - began
    batch = batch_of(inputs, batch_size_of(inputs), generator)
    error = error_between(outputs_of(changed, batch), outputs_of(example, batch))
    return {
        "traced": True,
        "groups": groups,
        "axes": groups,
        "axes_of_all": 0,
        "share": share,
        "guilty": [],
        "unknown": {},
        "error": error,
        "half_reordered": float("inf"),
        "kept": groups > 0 and error < BAR,
        "seconds": seconds,
    }


def _reordered(
    model: nn.Module, changed: nn.Module, inputs: Inputs, generator: torch.Generator
) -> tuple[int, float]:
    """Reorder a model by all permutations that rebasin finds; give their number, and the share."""
    from rebasin.permutation_initializer import PermutationInitializer

    example = map_inputs(inputs, lambda t: t.double() if t.is_floating_point() else t)
    example = list(example) if isinstance(example, tuple) else example
    graph = PermutationInitializer(model, changed, example).model_graph
    graph.enforce_identity()
    moved: dict[int, int] = {}
    for permutation, places in graph.permutation_to_info:
        size = len(permutation.perm_indices)
        permutation.perm_indices = torch.randperm(size, generator=generator)
        moved |= {id(place.parameter_b): place.parameter_b.numel() for place in places}
    count = len(graph.permutation_to_info)
    total = sum(parameter.numel() for parameter in changed.parameters())
    graph.apply_permutations()
    return count, sum(moved.values()) / max(total, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the top of the file."""
    return main_of(measure, str(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
