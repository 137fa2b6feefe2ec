"""`find_symmetries`: a model -> what may be reordered in it, proved by running."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from conjoin.arguments import as_module, as_whole, check_weights
from conjoin.batches import Inputs
from conjoin.symmetry.groups import Group, Layout, layout_of
from conjoin.symmetry.permutations import Permutations
from conjoin.symmetry.proof import Proof, prove, random_orders
from conjoin.symmetry.solving import solve
from conjoin.symmetry.tracing import trace

__all__ = ["Symmetries", "find_symmetries"]


@dataclass(frozen=True)
class Symmetries:
    """What may be reordered in a network without changing what it computes.

    Args:
        layout: groups of tensor dimensions that move together.
        proof: what running has shown.
        unknown: operations without a rule, and how often they occur; what they touch is pinned.
        seconds: that finding took.
        movable: number of parameters with a dimension that may be reordered.
        parameters: number of all.
    """

    layout: Layout
    proof: Proof
    unknown: Mapping[str, int]
    seconds: float
    movable: int
    parameters: int

    @property
    def groups(self) -> Mapping[str, Group]:
        """Groups by name."""
        return self.layout.groups

    def sample(self, generator: torch.Generator) -> Permutations:
        """Draw a random reordering of all groups."""
        return Permutations(self.layout, random_orders(self.layout, generator))

    def identity(self) -> Permutations:
        """Give the reordering that changes nothing."""
        return Permutations(self.layout, {})


def find_symmetries(model: nn.Module, example_inputs: Inputs, *, seed: int = 0) -> Symmetries:
    """Find which dimensions of which tensors may be reordered together, and prove it.

    The model is traced in eval mode; each operation says which dimensions it matches position by
    position, and whose order matters to it. Then a random element of the whole group is applied to
    a copy, and the outputs compared; a group that changes them is pinned, never trusted.

    Args:
        model: any module that `torch.export` takes; not changed.
        example_inputs: a batch of two or more examples: what one call of the model takes.
        seed: of the random element.

    Raises:
        InputError: it is no module, has no weights yet, cannot be copied, does not run on the
            inputs, or they have no batch.
        TraceError: the model cannot be traced; the message says why and what to do.

    Source: permutation symmetry, Hecht-Nielsen 1990; its use for merging, Ainsworth et al., Git
    Re-Basin, ICLR 2023.

    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> found = find_symmetries(net, torch.randn(2, 4))
    >>> [(group.size, group.members) for group in found.groups.values()]
    [(6, (('0.weight', 0), ('0.bias', 0), ('2.weight', 1)))]
    >>> other = found.sample(torch.Generator().manual_seed(0)).apply(net)
    >>> x = torch.randn(5, 4)
    >>> bool(torch.allclose(net(x), other(x), atol=1e-6)), torch.equal(other[0].bias, net[0].bias)
    (True, False)
    """
    model, seed = as_module(model), as_whole(seed, "seed")
    check_weights(model)
    began = time.perf_counter()
    solved = solve(trace(model, example_inputs))
    guilty: tuple[str, ...] = ()
    while True:
        layout = layout_of(solved, guilty)
        proof = prove(model, layout, example_inputs, seed=seed)
        if not proof.guilty:
            break
        guilty += proof.guilty  # without them, others may move in another way: prove it again
    proof = Proof(proof.error, guilty)
    moving = {tensor for group in layout.groups.values() for tensor, _ in group.members}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Symmetries(
        layout,
        proof,
        solved.unknown,
        time.perf_counter() - began,
        sum(size for name, size in sizes.items() if name in moving),
        sum(sizes.values()),
    )
