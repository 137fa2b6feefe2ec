"""What the engine has to know about a method."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from typing import Any

from conjoin.errors import MethodError

__all__ = ["Method", "Need"]

# Keywords that the engine fills in; every other keyword of a method is a parameter of the user's.
_FROM_ENGINE = frozenset({"base", "weights", "summary", "generator", "statistics"})


class Need(StrEnum):
    """What a method gets besides the tensors of the models."""

    BASE = "base"
    """The tensor of the common ancestor, as keyword ``base``."""
    WEIGHTS = "weights"
    """One number per model, as keyword ``weights``."""
    STATISTICS = "statistics"
    """Tensors measured on data, as keyword ``statistics``."""


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Args:
        name: what users call it.
        function: ``(tensors, *, ...) -> tensor``. Keywords: what `needs` names; ``summary`` if
            there is a `summarize`; ``generator`` (a `torch.Generator` seeded from the run's seed
            and the tensor's name) if it is random; the rest are parameters, with defaults.
        formula: one line of mathematics.
        needs: see `Need`.
        elementwise: whether element i of the result depends on elements i alone, so that a tensor
            may be merged in chunks.
        summarize: for methods that need the whole model first: ``(parts, *, parameters) ->
            summary``, where `parts` iterates over the list of tensors of every name (with the
            base last if there is one).
        paper: where it comes from.
    """

    name: str
    function: Callable[..., Any]
    formula: str
    needs: frozenset[Need] = frozenset()
    elementwise: bool = True
    summarize: Callable[..., Any] | None = None
    paper: str = ""

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The parameters that a user may set, with their defaults."""
        keywords = inspect.signature(self.function).parameters.values()
        return {
            p.name: p.default
            for p in keywords
            if p.kind is p.KEYWORD_ONLY and p.name not in _FROM_ENGINE
        }

    @cached_property
    def is_random(self) -> bool:
        """Whether the function takes a generator."""
        return "generator" in inspect.signature(self.function).parameters

    def check(self, parameters: Mapping[str, Any], *, base: bool, weights: bool) -> None:
        """Raise a MethodError if the method cannot be used with these arguments."""
        for name in parameters:
            if name not in self.defaults:
                close = get_close_matches(name, self.defaults, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                known = ", ".join(self.defaults) or "none"
                raise MethodError(f"{self.name} has no parameter {name!r}{hint} It has: {known}")
        required = [n for n, d in self.defaults.items() if d is inspect.Parameter.empty]
        if missing := [n for n in required if n not in parameters]:
            raise MethodError(f"{self.name} needs the parameters {', '.join(missing)}")
        if Need.STATISTICS in self.needs:
            raise MethodError(f"{self.name} needs statistics measured on data, which merge has not")
        if Need.BASE in self.needs and not base:
            raise MethodError(f"{self.name} merges changes from a common base; pass base=...")
        if base and Need.BASE not in self.needs:
            raise MethodError(f"{self.name} uses no base; leave out base=...")
        if weights and Need.WEIGHTS not in self.needs:
            raise MethodError(
                f'{self.name} takes no weights; use "linear", or leave out weights=...'
            )
