"""Cases of rules: a small network with one operation, and its groups, written by hand.

Exporting takes longer than all else, so that the cases of one file are branches of one network,
each with an output of its own.
"""

import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.symmetry import Group, Layout
from conjoin.symmetry.proof import Proof, prove
from conjoin.symmetry.solving import Solved, solve
from conjoin.symmetry.tracing import Trace, trace

FILES = (
    "contraction",
    "convolution",
    "elementwise",
    "views",
    "normalization",
    "reduction",
    "indexing",
    "recurrent",
    "attention",
    "networks",
)


@dataclass(frozen=True)
class Case:
    """A network of one operation.

    Args:
        forward: of the module that has the parts, and the input.
        parts: makes modules, parameters and buffers (tensors) by name.
        groups: by hand: "size: members" or "size in outer group: members", where a member is
            "tensor:dimension".
    """

    forward: Callable[[Any, Tensor], Tensor | tuple[Tensor, ...]]
    parts: Callable[[], Mapping[str, Any]]
    groups: tuple[str, ...]


class Branch(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        for name, part in case.parts().items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.case.forward(self, x)


class Branches(nn.Module):
    def __init__(self, cases: Mapping[str, Case]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: Branch(case) for name, case in cases.items()})

    def forward(self, x: Tensor) -> list[Tensor | tuple[Tensor, ...]]:
        return [branch(x) for branch in self.branches.values()]


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


@dataclass(frozen=True, eq=False)
class Traced:
    """The cases of one file."""

    cases: Mapping[str, Case]
    model: nn.Module
    inputs: Tensor
    trace: Trace

    def solved(self) -> Solved:
        return solve(self.trace)

    def prove(self, layout: Layout) -> Proof:
        with warnings.catch_warnings():
            _expect_warning()
            return prove(self.model, layout, self.inputs)


def traced_cases(files: Iterable[str] = FILES) -> dict[str, Traced]:
    found = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        _expect_warning()
        torch.manual_seed(0)
        for file in files:
            module = importlib.import_module(f"cases_{file}")
            model = Branches(module.CASES)
            inputs = module.inputs()
            found[file] = Traced(module.CASES, model, inputs, trace(model, inputs))
    return found


def _expect_warning() -> None:
    warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")


Written = tuple[int, frozenset[str], frozenset[str]]
"""Size, what it lies within, members."""


def written(lines: Iterable[str]) -> Counter[Written]:
    """Read groups that are written by hand."""
    found: Counter[Written] = Counter()
    for line in lines:
        head, members = line.split(": ", 1)
        size, _, outer = head.partition(" in ")
        found[int(size), frozenset(outer.split()), frozenset(members.split())] += 1
    return found


def groups_of(groups: Iterable[Group], prefix: str = "") -> Counter[Written]:
    """Give the groups with a prefix, as `written` does, without the prefix."""
    return Counter(
        (
            group.size,
            frozenset(_within(name, prefix) for name in group.within),
            frozenset(f"{tensor.removeprefix(prefix)}:{dim}" for tensor, dim in group.members),
        )
        for group in groups
        if group.name.startswith(prefix)
    )


def _within(name: str, prefix: str) -> str:
    # What is pinned may be known by the name of another branch: they share an input.
    return name.removeprefix(prefix) if name.startswith(prefix) else "elsewhere"


class Call(nn.Module):
    """A network of layers a and b, with a forward given."""

    def __init__(self, function, inner: int = 6, outer: int = 6) -> None:
        super().__init__()
        self.function = function
        self.a = nn.Linear(4, inner)
        self.b = nn.Linear(outer, 2)

    def forward(self, x):
        return self.function(self, x)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
