"""Parameters of methods: what a value may be is read from the annotation of the function.

    bool                            true or false
    int, float, str                 that; floats are finite, and integers are floats too
    Literal["a", "b"]               one of these
    float | Sequence[float]         one number, or one per model
    Annotated[..., Within(0, 1)]    the numbers are in this range

Other annotations, and none, are not checked.
"""

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import SimpleNamespace, UnionType
from typing import Any

from conjoin.errors import MethodError

__all__ = ["Within", "annotations_of", "check_value", "is_per_model", "one_per_model"]


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a number, with both ends."""

    low: float
    high: float


def annotations_of(function: Callable[..., Any], keywords: Iterable[str]) -> Mapping[str, Any]:
    """Give the annotations of some keywords of a function; those that mean something here."""
    parameters, names = inspect.signature(function).parameters, getattr(function, "__globals__", {})
    found = {}
    for name in keywords:
        kind = parameters[name].annotation
        if kind is inspect.Parameter.empty:
            continue
        try:  # one by one: those of tensors may be known to type checkers alone
            one = SimpleNamespace(__annotations__={name: kind})
            found.update(typing.get_type_hints(one, names, include_extras=True))
        except (NameError, TypeError):  # names of the caller's own
            if not isinstance(kind, str):
                found[name] = kind
    return found


def is_per_model(annotation: Any) -> bool:
    """Say whether a parameter may have one value per model.

    >>> from typing import Annotated
    >>> is_per_model(Annotated[float | Sequence[float], Within(0, 1)]), is_per_model(float)
    (True, False)
    """
    inner, _ = _split(annotation)
    return typing.get_origin(inner) in (UnionType, typing.Union) and any(
        typing.get_origin(part) is Sequence for part in typing.get_args(inner)
    )


def one_per_model(value: float | Sequence[float], count: int) -> list[float]:
    """Repeat one value, or the only one of a list, for every model.

    >>> one_per_model(0.5, 2), one_per_model([0.5, 1], 2)
    ([0.5, 0.5], [0.5, 1])
    """
    values = [value] if isinstance(value, int | float) else list(value)
    if len(values) not in (1, count):
        raise MethodError(f"expected one value, or one per model: {count}, not {len(values)}")
    return values * count if len(values) == 1 else values


def check_value(what: str, value: Any, annotation: Any, models: int | None = None) -> None:
    """Raise unless a value is what the annotation says.

    Args:
        what: "ties: density", for the message.
        value: as a user gave it.
        annotation: of the parameter.
        models: how many there are, if that is known.

    Raises:
        MethodError: it is not.

    >>> from typing import Annotated
    >>> check_value("ties: density", 20, Annotated[float, Within(0, 1)])
    Traceback (most recent call last):
    conjoin.errors.MethodError: ties: density must be a number from 0 to 1, not 20
    """
    inner, within = _split(annotation)
    if is_per_model(inner):
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if models is not None and len(value) != models:
                raise MethodError(
                    f"{what} must be one number, or one per model: {models}, not {len(value)}"
                )
            for number, part in enumerate(value):
                _check_number(f"{what} of model {number}", part, float, within)
        else:
            _check_number(what, value, float, within, ", or one per model")
    elif typing.get_origin(inner) is typing.Literal:
        _check_choice(what, value, typing.get_args(inner))
    elif inner in (int, float):
        _check_number(what, value, inner, within)
    elif inner is bool and not isinstance(value, bool):
        raise MethodError(f"{what} must be true or false, not {value!r}")
    elif inner is str and not isinstance(value, str):
        raise MethodError(f"{what} must be text, not {value!r}")


def _split(annotation: Any) -> tuple[Any, Within | None]:
    """Take an annotation apart into a type and a range."""
    if typing.get_origin(annotation) is not typing.Annotated:
        return annotation, None
    inner, *extras = typing.get_args(annotation)
    return inner, next((extra for extra in extras if isinstance(extra, Within)), None)


def _check_choice(what: str, value: Any, choices: Sequence[Any]) -> None:
    # True == 1: the type has to be the same too.
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return
    close = get_close_matches(value, [str(c) for c in choices], n=1) if type(value) is str else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(map(repr, choices))
    raise MethodError(f"{what} must be one of {known}, not {value!r}{hint}")


def _check_number(what: str, value: Any, kind: type, within: Within | None, also: str = "") -> None:
    good = isinstance(value, int) if kind is int else isinstance(value, int | float)
    good = good and not isinstance(value, bool) and math.isfinite(value)
    if within is not None:
        good = good and within.low <= value <= within.high
    if not good:
        name = "a whole number" if kind is int else "a number"
        span = f" from {within.low:g} to {within.high:g}" if within else ""
        finite = "" if within or kind is int else " (finite)"
        raise MethodError(f"{what} must be {name}{span}{finite}{also}, not {value!r}")
