"""Values of a recipe: one for all tensors, by pattern, or in a gradient over the layers."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conjoin.errors import RecipeError
from conjoin.recipes.layers import InLayer, Layers, Outside
from conjoin.recipes.problems import Place

__all__ = ["Gradient", "Rule", "Scalar", "Value", "matches"]

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Gradient:
    """A value that changes over the layers of a stack.

    Layer i of n is at t = i / (n - 1). Of m numbers, t (m - 1) says between which two it is, and
    the value is linear between them; words and booleans take the one before. The only layer of a
    stack is at t = 1, as in mergekit.

    Args:
        values: at least 2.
        before: for tensors before the layers (embeddings); None means the first value.
        after: for tensors after the layers (final norm, head); None means the last value.

    >>> ramp = Gradient((0.0, 0.5, 1.0))
    >>> [ramp.of_layer(i, 5) for i in range(5)]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    values: tuple[Scalar, ...]
    before: Scalar | None = None
    after: Scalar | None = None

    def of_layer(self, index: int, count: int) -> Scalar:
        """Give the value in layer `index` of `count`."""
        # In integers, so that a layer that stands on a value gets exactly that value.
        steps = len(self.values) - 1
        whole, part = divmod(index * steps, count - 1) if count > 1 else (steps, 0)
        low = self.values[whole]
        if part == 0 or isinstance(low, bool | str):
            return low
        high = self.values[whole + 1]
        assert not isinstance(high, bool | str)
        fraction = part / (count - 1)
        return (1 - fraction) * low + fraction * high

    @property
    def ends(self) -> tuple[Scalar, Scalar]:
        """The values before and after the layers."""
        return (
            self.values[0] if self.before is None else self.before,
            self.values[-1] if self.after is None else self.after,
        )


@dataclass(frozen=True)
class Rule:
    """A value for the tensors that a pattern matches.

    Args:
        pattern: a shell pattern over names, see `matches`.
        value: of these tensors.
        place: in the recipe.
    """

    pattern: str
    value: Scalar | Gradient
    place: Place = field(default_factory=Place, compare=False)


def matches(pattern: str, name: str) -> bool:
    """Whether a shell pattern, as in `conjoin.checkpoints.match_names`, matches a name.

    >>> matches("*.bias", "fc.bias"), matches("fc", "fc.bias")
    (True, False)
    """
    return pattern in ("*", name) or fnmatch.fnmatchcase(name, pattern)


@dataclass(frozen=True)
class Value:
    """What a recipe says of one parameter: rules, of which the first that matches a name wins.

    >>> from conjoin.recipes import find_layers
    >>> layers = find_layers(["wte.weight", "h.0.mlp.weight", "h.1.mlp.weight", "h.1.ln.weight"])
    >>> value = Value((Rule("*.ln.*", 0.0), Rule("*", Gradient((0.5, 1.0)))))
    >>> [value.at(name, layers) for name in ("wte.weight", "h.1.mlp.weight", "h.1.ln.weight")]
    [0.5, 1.0, 0.0]
    """

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, value: Scalar | Gradient, place: Place | None = None) -> "Value":
        """Give the value that is the same for all tensors."""
        return cls((Rule("*", value, place or Place()),))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns, without those for all tensors; each should match a tensor of the model."""
        return tuple(rule.pattern for rule in self.rules if rule.pattern != "*")

    @property
    def constant(self) -> Scalar | None:
        """The value, if it is one and the same for all tensors; else None."""
        first = self.rules[0]
        is_one = first.pattern == "*" and not isinstance(first.value, Gradient)
        return first.value if is_one else None  # type: ignore[return-value]

    def at(self, name: str, layers: Layers) -> Scalar | None:
        """Give the value for a tensor, or None if no pattern matches it.

        Raises:
            RecipeError: a gradient for a tensor of which it is not known whether it stands before
                or after the layers.
        """
        return self.at_place(name, layers.place(name))

    def at_place(self, name: str, where: InLayer | Outside) -> Scalar | None:
        """Give the value for a tensor at a place among layers; see `at`.

        For stacked layers (`slices`), where a gradient runs over the layers of the slice.
        """
        for rule in self.rules:
            if matches(rule.pattern, name):
                return _resolved(rule, name, where)
        return None

    def scalars(self) -> Sequence[tuple[Place, Scalar]]:
        """Every single value that occurs, with its place, for checks."""
        found: list[tuple[Place, Scalar]] = []
        for rule in self.rules:
            if isinstance(rule.value, Gradient):
                found += [(rule.place, v) for v in (*rule.value.values, *rule.value.ends)]
            else:
                found.append((rule.place, rule.value))
        return found

    def canonical(self) -> Any:
        """Plain data that is equal for values that mean the same.

        >>> Value.of(1).canonical() == Value.of(1.0).canonical()
        True
        """
        rules: list[list[Any]] = []
        for rule in self.rules:
            if rule.pattern not in [pattern for pattern, _ in rules]:
                rules.append([rule.pattern, _plain(rule.value)])
            if rule.pattern == "*":
                break  # what follows is never reached
        return rules[0][1] if rules[0][0] == "*" else rules


def _resolved(rule: Rule, name: str, where: InLayer | Outside) -> Scalar:
    if not isinstance(rule.value, Gradient):
        return rule.value
    before, after = rule.value.ends
    if isinstance(where, InLayer):
        return rule.value.of_layer(where.index, where.count)
    if where is Outside.BEFORE or before == after:
        return before
    if where is Outside.AFTER:
        return after
    raise RecipeError(
        f"{rule.place}: the gradient {_shown(rule.value)} gives no value to {name!r}, which is in "
        "no layer, and whose name does not say whether it stands before or after them. Give it one "
        f"by its name, {{{name!r}: VALUE, {rule.pattern!r}: GRADIENT}} (a `filter` in mergekit's "
        'recipes), or say where the layers are (layers: "PATTERN.*")'
    )


def _shown(gradient: Gradient) -> str:
    return "[" + ", ".join(str(value) for value in gradient.values) + "]"


def _plain(value: Scalar | Gradient) -> Any:
    if isinstance(value, Gradient):
        before, after = value.ends
        values = [_plain(v) for v in value.values]
        return {"gradient": values, "before": _plain(before), "after": _plain(after)}
    return value if isinstance(value, bool | str) else float(value)
