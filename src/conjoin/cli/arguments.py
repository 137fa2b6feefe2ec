"""Options of the form KEY=VALUE, and lists of numbers."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from conjoin.errors import InputError

__all__ = ["parse_keep", "parse_kinds", "parse_parameters", "parse_weights"]

# YAML 1.1 reads 1e-3 as text.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def parse_weights(texts: Sequence[str]) -> list[float] | None:
    """Return numbers that were given one by one, or with commas; None if there are none.

    >>> parse_weights(["0.3,0.7", "1"])
    [0.3, 0.7, 1.0]
    """
    if not texts:
        return None
    return [_number(part.strip()) for text in texts for part in text.split(",")]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"--weights takes finite numbers, such as --weights 0.3,0.7; {text!r} is none"
        )
    return value


def parse_keep(texts: Sequence[str]) -> dict[str, int]:
    """Return ``{pattern: number of the model}``.

    >>> parse_keep(["classifier.*=0"])
    {'classifier.*': 0}
    """
    pairs = _pairs("--keep", texts, "'classifier.*=0'")
    for pattern, number in pairs.items():
        if not (number.isascii() and number.isdigit()):
            raise InputError(
                f"--keep takes PATTERN=NUMBER with the number of a model, counted from 0; "
                f"{pattern}={number} has {number!r}"
            )
    return {pattern: int(number) for pattern, number in pairs.items()}


def parse_kinds(texts: Sequence[str]) -> dict[str, str]:
    """Return ``{pattern: kind}``; which kinds there are, the library knows.

    >>> parse_kinds(["*.mask=constant"])
    {'*.mask': 'constant'}
    """
    return _pairs("--kind", texts, "'*.mask=constant'")


def parse_parameters(texts: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a method, read as YAML scalars.

    Args:
        texts: of the form ``name=value``.
        defaults: of the method; a value has to be of its default's type. What is not in it is
            passed on, for the library to refuse.

    >>> parse_parameters(["normalize=false"], {"normalize": True})
    {'normalize': False}
    """
    pairs = _pairs("--set", texts, "normalize=false", from_left=True)
    return {name: _typed(name, _scalar(name, text), defaults) for name, text in pairs.items()}


def _scalar(name: str, text: str) -> Any:
    import yaml

    if _NUMBER.fullmatch(text):
        return float(text) if re.search(r"[.eE]", text) else int(text)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"cannot read the value of --set {name}={text}: {error}") from None
    if not isinstance(value, bool | int | float | str | None):
        raise InputError(f"--set {name} takes one value: a number, true, false or a word")
    return value


def _typed(name: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    default = defaults.get(name)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(default) in (bool, int, float, str) and type(value) is not type(default):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
        raise InputError(f"--set {name} takes {words[type(default)]}, not {value!r}")
    return value


def _pairs(
    option: str, texts: Sequence[str], example: str, *, from_left: bool = False
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        # Patterns may have an = in them; the names of parameters have none.
        key, equals, value = text.partition("=") if from_left else text.rpartition("=")
        if not (key and equals and value):
            raise InputError(f"{option} takes KEY=VALUE, for instance {example}, not {text!r}")
        if key in pairs:
            raise InputError(f"{option} is given twice for {key!r}")
        pairs[key] = value
    return pairs
