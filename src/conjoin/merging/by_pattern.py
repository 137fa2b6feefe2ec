"""What a method is given for each tensor, where patterns of names say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from conjoin.arguments import as_mapping, as_numbers, plain
from conjoin.checkpoints import Checkpoint, match_names
from conjoin.errors import InputError, MethodError
from conjoin.merging.task import Settings

__all__ = ["Choices"]

T = TypeVar("T")

Weights = tuple[float, ...]


@dataclass(frozen=True)
class Choices:
    """Weights and parameters as the caller of a merge gives them.

    Args:
        weights: one number per model, or such numbers by pattern; None for the method's own.
        parameters: values by name.
        by_pattern: for parameters that differ between tensors, values by pattern.
    """

    weights: Weights | Mapping[str, Weights] | None
    parameters: Mapping[str, Any]
    by_pattern: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, weights: object, parameters: object, models: int) -> Choices:
        """Read what was passed.

        Args:
            weights: a list of numbers, or ``{pattern: list of numbers}``, or None.
            parameters: ``{name: value}`` or ``{name: {pattern: value}}``, or None.
            models: how many there are.

        Raises:
            InputError: it is something else.
            MethodError: a number of weights that is not that of the models.
        """
        shares: Weights | Mapping[str, Weights] | None = None
        if isinstance(weights, Mapping):
            if any(isinstance(value, int | float) for value in weights.values()):
                raise InputError(
                    "weights has to be a list of numbers, one per model, or such lists by pattern "
                    f"of names, {{'*': [1, 3]}}; not {weights!r:.200}"
                )
            shares = {
                pattern: _numbers(value, f"weights[{pattern!r}]", models)
                for pattern, value in _filled(weights, "weights").items()
            }
        elif weights is not None:
            shares = _numbers(weights, "weights", models)
        given = as_mapping(parameters, "parameters", '{"t": 0.3}')
        tables = {name: value for name, value in given.items() if isinstance(value, Mapping)}
        return cls(
            shares,
            {name: plain(value) for name, value in given.items() if name not in tables},
            {
                name: {key: plain(one) for key, one in _filled(table, name).items()}
                for name, table in tables.items()
            },
        )

    def first(self) -> Mapping[str, Any]:
        """Give parameters that some tensor may get, to look at before any model is opened."""
        firsts = {name: next(iter(table.values())) for name, table in self.by_pattern.items()}
        return {**self.parameters, **firsts}

    def settings(
        self, models: Sequence[Checkpoint], check: Callable[[Mapping[str, Any]], None]
    ) -> Callable[[str], Settings]:
        """Give the function that says what is given for the tensor of a name.

        Of several patterns that match a name the first counts. Where none does, the method's
        default stays.

        Args:
            models: those that are merged.
            check: raises an error for parameters that cannot be.

        Raises:
            InputError: a pattern matches no tensor.
        """
        if not self.by_pattern and not isinstance(self.weights, Mapping):
            everywhere = Settings(self.weights, self.parameters)
            return lambda _: everywhere
        roots = _roots(models)
        shares = self.weights if isinstance(self.weights, Mapping) else {"*": self.weights}
        weights = _by_name(shares, roots)
        tables = {name: _by_name(table, roots) for name, table in self.by_pattern.items()}
        checked = set[str]()

        def settings(name: str) -> Settings:
            chosen = {key: table[name] for key, table in tables.items() if name in table}
            parameters = {**self.parameters, **chosen}
            if repr(chosen) not in checked:
                try:
                    check(parameters)
                except MethodError as error:
                    raise MethodError(f"for {name!r}: {error}") from None
                checked.add(repr(chosen))
            return Settings(weights.get(name), parameters)

        return settings


def _numbers(values: object, what: str, models: int) -> Weights:
    numbers = as_numbers(values, what)
    if len(numbers) != models:
        where = "" if what == "weights" else f" in {what}"
        raise MethodError(f"expected one weight per model, {models}; got {len(numbers)}{where}")
    return numbers


def _filled(table: Mapping[Any, T], what: str) -> Mapping[Any, T]:
    if not table:
        raise InputError(f"{what} by pattern has no pattern; leave it out, or say {{'*': VALUE}}")
    return table


def _roots(models: Sequence[Checkpoint]) -> dict[str, str]:
    """Give, by name, the tensor that each is tied to, or itself."""
    specs: dict[str, str] = {}
    for model in models:
        for name, spec in model.specs.items():
            specs.setdefault(name, spec.alias_of or name)
    return specs


def _by_name(table: Mapping[str, T], roots: Mapping[str, str]) -> dict[str, T]:
    """Resolve ``{pattern: value}`` to ``{name: value}``."""
    found: dict[str, T] = {}
    for pattern, value in table.items():
        names = match_names(pattern, roots)
        merged = [name for name in names if roots[name] == name]
        if not merged:
            raise InputError(
                f"the pattern {pattern!r} matches only {names[0]!r}, which is tied to "
                f"{roots[names[0]]!r}: they are one tensor, whose name is the latter here"
            )
        for name in merged:
            found.setdefault(name, value)
    return found
