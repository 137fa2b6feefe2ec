"""What the engine has to know about a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from conjoin.compiled import Notes, SymbolOfSums
from conjoin.deferred import torch
from conjoin.errors import MethodError
from conjoin.methods.parameters import annotations_of, check_value, is_per_model

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Method", "Need", "Total", "TotalOf"]


class Total(Protocol):
    """What the engine gives to `summarize`: a way to look at all blocks of one tensor.

    If the method's parameter ``per`` is "model", they are those of all tensors. A block is flat,
    at most 2**18 elements of one tensor that follow each other, in float32 or float64.
    """

    @property
    def size(self) -> int:
        """Number of elements of all blocks."""
        ...

    def __call__(self, function: Callable[..., Tensor], /) -> Tensor:
        """Call ``function(tensors)`` on every block, and give the sum of the results.

        It is given ``base=`` and ``generator=`` where it has these keywords. It gives a float64 or
        int64 tensor, always of one shape. If the results are large, it may have a keyword
        ``into``: the sum so far, to which it adds its own in place and which it then gives, or
        None, where it begins a new one.
        """
        ...

    def numbers(self, function: Callable[..., Tensor], /) -> list[float]:
        """Give the sum of results that are float64 [k]; perhaps without a tensor being made."""
        numbers: list[float] = self(function).tolist()
        return numbers

    def sample(self, function: Callable[..., Tensor], count: int, /) -> Tensor:
        """Call it with about `count` elements, and join the results along their last dimension.

        The elements lie evenly among all; if there are not more, they are all. Every tensor has
        one at least.
        """
        ...


class TotalOf:
    """A total over one block: for a method that has its tensors at hand, and for tests.

    Args:
        tensors: of the block, as `function` gets them.
        given: other keywords of which it gets those that it has.

    >>> total = TotalOf([torch.tensor([1.0, 2.0])])
    >>> total.size, total(lambda tensors: tensors[0].sum())
    (2, tensor(3.))
    """

    def __init__(self, tensors: Sequence[Tensor], **given: Any) -> None:
        self._tensors, self._given = tensors, given

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._tensors[0].numel()

    def __call__(self, function: Callable[..., Tensor], /) -> Tensor:
        """Call the function on the block."""
        return self._call(function, self._tensors, self._given)

    def numbers(self, function: Callable[..., Tensor], /) -> list[float]:
        """Call the function on the block, and give numbers."""
        found: Tensor | SymbolOfSums = self(function)
        numbers: list[float] = found.tolist()
        return numbers

    def sample(self, function: Callable[..., Tensor], count: int, /) -> Tensor:
        """Call the function with about `count` elements."""
        step = max(1, -(-self.size // count))
        given = dict(self._given)
        if "base" in given:
            given["base"] = given["base"].reshape(-1)[::step]
        return self._call(function, [tensor.reshape(-1)[::step] for tensor in self._tensors], given)

    @staticmethod
    def _call(
        function: Callable[..., Tensor], tensors: Sequence[Tensor], given: Mapping[str, Any]
    ) -> Tensor:
        wanted = inspect.signature(function).parameters
        return function(tensors, **{name: v for name, v in given.items() if name in wanted})


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
            there is a `summarize`; ``generator`` (a `torch.Generator` seeded from the run's seed,
            the tensor's name and the block) if it is random; the rest are parameters, with
            defaults. What these may be is read from annotations, see `conjoin.methods.parameters`.
        formula: one line of mathematics.
        needs: see `Need`.
        optional: what it gets if there is one, and does without otherwise. Such a keyword has the
            default None.
        elementwise: whether, given the summary, element i of the result depends on elements i
            alone, so that a tensor may be merged in blocks. Otherwise tensors come whole, in their
            shape.
        whole_with: parameters of which any value but the default makes an elementwise method look
            at whole tensors in their shape (at their rows, say).
        widens: of a method of whole tensors, whether it takes them as they are stored, all in the
            dtype of the result, and brings no more than a part at a time to float32. So a large
            tensor in bfloat16 takes little memory.
        summarize: for methods that need a whole tensor or the whole model first:
            ``(total, *, weights and parameters that it uses) -> summary``, see `Total`.
        passes_nonfinite: whether NaN or infinity in any input is always NaN or infinity in the same
            place of the result, so that looking at the result is enough.
        models: how many the method merges, if it cannot be any number.
        least: how many it takes at least, if it can be any number from there on.
        per_task: whether it gives one result for each model, of which the parameter ``task``
            chooses one by its number.
        paper: where it comes from.
    """

    name: str
    function: Callable[..., Any]
    formula: str
    needs: frozenset[Need] = frozenset()
    optional: frozenset[Need] = frozenset()
    elementwise: bool = True
    whole_with: frozenset[str] = frozenset()
    widens: bool = False
    summarize: Callable[..., Any] | None = None
    passes_nonfinite: bool = False
    models: int | None = None
    least: int = 1
    per_task: bool = False
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
    def annotations(self) -> Mapping[str, Any]:
        """What the parameters may be; a parameter without an annotation is not in it."""
        found = annotations_of(self.function, self.defaults)
        return {name: found[name] for name in self.defaults if name in found}

    @cached_property
    def per_model(self) -> frozenset[str]:
        """The parameters that may have one value per model."""
        return frozenset(name for name, kind in self.annotations.items() if is_per_model(kind))

    @cached_property
    def is_random(self) -> bool:
        """Whether the function takes a generator."""
        return "generator" in inspect.signature(self.function).parameters

    @property
    def takes_base(self) -> bool:
        """Whether a base may be given, be it needed or not."""
        return Need.BASE in self.needs | self.optional

    def in_blocks(self, parameters: Mapping[str, Any]) -> bool:
        """Say whether a tensor may be merged in blocks, with these parameters."""
        return self.elementwise and all(
            parameters.get(name, self.defaults[name]) == self.defaults[name]
            for name in self.whole_with
        )

    def check(
        self,
        parameters: Mapping[str, Any],
        *,
        base: bool,
        weights: bool,
        models: int | None = None,
    ) -> None:
        """Raise a MethodError if the method cannot be used with these arguments.

        Args:
            parameters: by name, as the user gave them.
            base: whether there is one.
            weights: whether there are some.
            models: how many there are, without the base, if that is known.
        """
        for name, value in parameters.items():
            if name not in self.defaults:
                close = get_close_matches(str(name), self.defaults, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                known = ", ".join(self.defaults) or "none"
                raise MethodError(f"{self.name} has no parameter {name!r}{hint} It has: {known}")
            if name in self.annotations:
                check_value(f"{self.name}: {name}", value, self.annotations[name], models)
        required = [n for n, d in self.defaults.items() if d is inspect.Parameter.empty]
        if missing := [n for n in required if n not in parameters]:
            raise MethodError(f"{self.name} needs the parameters {', '.join(missing)}")
        if Need.STATISTICS in self.needs:
            raise MethodError(f"{self.name} needs statistics measured on data, which merge has not")
        if Need.BASE in self.needs and not base:
            raise MethodError(f"{self.name} merges changes from a common base; pass base=...")
        if base and not self.takes_base:
            raise MethodError(f"{self.name} uses no base; leave out base=...")
        if weights and Need.WEIGHTS not in self.needs:
            others = '"linear" does'
            if "t" in self.defaults:
                others = 'say how far to go by parameters={"t": ...}'
            raise MethodError(f"{self.name} takes no weights; {others}, or leave out weights=...")
        if models is not None and self.models not in (None, models):
            plural = "model" if self.models == 1 else "models"
            raise MethodError(
                f"{self.name} merges exactly {self.models} {plural}, and here are {models}"
            )
        if models is not None and models < self.least:
            raise MethodError(
                f"{self.name} merges at least {self.least} models, and here are {models}"
            )

    def rehearse(
        self,
        parameters: Mapping[str, Any],
        *,
        models: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Run the method on tensors without elements, to find values that it refuses.

        For a plan: whether weights cancel, say, is seen before anything is read.

        Raises:
            MethodError: from the method itself. Call `check` before.
        """
        given = {
            **self.defaults,
            **parameters,
            "weights": [1.0] * models if weights is None else list(weights),
        }
        notes = Notes()
        symbols = [notes.symbol(number, 0) for number in range(models + 1)]
        try:
            self._rehearse(symbols, given)
        except MethodError:
            raise
        except Exception:  # the method asks for more than symbols can do
            nothing = [torch.empty(0)] * (models + 1)
            self._rehearse(nothing, {**given, "generator": torch.Generator()})

    def _rehearse(self, tensors: list[Any], given: Mapping[str, Any]) -> None:
        everything = {**given, "base": tensors.pop()}

        def call(function: Callable[..., Any], given: Any) -> Any:
            wanted = [name for name in inspect.signature(function).parameters if name in everything]
            return function(given, **{name: everything[name] for name in wanted})

        if self.summarize is not None:
            everything["summary"] = call(self.summarize, TotalOf(tensors, **everything))
        call(self.function, tensors)
