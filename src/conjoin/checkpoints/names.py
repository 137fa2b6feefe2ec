"""Names of tensors: matching them by pattern, and saying how two sets of them differ."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

from conjoin.errors import InputError

__all__ = ["closest_name", "describe_name_difference", "match_names"]

# A similarity search costs one comparison per name. Beyond this many names an error message
# would take seconds to write, and the first ones are enough to see a typing mistake.
_SEARCHED = 5000


def closest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the name most similar to `name`, or None when nothing is similar.

    >>> closest_name("conv1.wieght", ["conv1.weight", "fc.bias"])
    'conv1.weight'
    >>> closest_name("xyz", ["conv1.weight", "fc.bias"]) is None
    True
    """
    found = difflib.get_close_matches(name, list(names)[:_SEARCHED], n=1)
    return found[0] if found else None


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a shell pattern matches, in their order.

    `*` matches any characters (dots too), `?` one character, `[ab]` one of several; upper and
    lower case differ. A pattern that is itself a name matches that name and no other, so that
    names with brackets can be written as they are.

    Raises:
        InputError: it is no string, or matches nothing; the message has the closest names.

    >>> match_names("*.bias", ["conv1.weight", "conv1.bias", "fc.bias"])
    ['conv1.bias', 'fc.bias']
    """
    if not isinstance(pattern, str):
        raise InputError(f"a pattern of tensor names is a string such as 'head.*', not {pattern!r}")
    names = list(names)
    if pattern in names:
        return [pattern]
    matches = re.compile(fnmatch.translate(pattern)).match
    found = [name for name in names if matches(name)]
    if not found:
        raise InputError(
            f"the pattern {pattern!r} matches none of the {len(names)} tensor names; "
            + _suggest(pattern, names)
        )
    return found


def _suggest(pattern: str, names: Sequence[str]) -> str:
    if not names:
        return "there are no names to match"
    # `encodr.*` resembles no whole name, but it does resemble the start of one; `*.wieght`, an end.
    fragments: dict[str, str] = {}
    for name in names[:_SEARCHED]:
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            fragments.setdefault(".".join(parts[:k]), name)
            fragments.setdefault(".".join(parts[-k:]), name)
    close = difflib.get_close_matches(pattern.strip("*?."), list(fragments)[:_SEARCHED], n=3)
    shown = list(dict.fromkeys(fragments[fragment] for fragment in close))
    if shown:
        return "the closest names are " + ", ".join(map(repr, shown))
    return "the names look like " + ", ".join(map(repr, names[:3]))


def describe_name_difference(
    first: Iterable[str],
    second: Iterable[str],
    *,
    first_label: str = "the first",
    second_label: str = "the second",
    limit: int = 5,
) -> str:
    """Say how two sets of names differ, for an error message; empty when they do not.

    Args:
        first, second: the names; their order does not matter, duplicates neither.
        first_label, second_label: what to call the two sides.
        limit: how many names to show on each side, each with the closest one on the other side.

    >>> print(describe_name_difference(["a.weight", "b"], ["a.wieght", "b"]))
    1 only in the first: 'a.weight' (closest: 'a.wieght')
    1 only in the second: 'a.wieght' (closest: 'a.weight')
    """
    left, right = dict.fromkeys(first), dict.fromkeys(second)
    only_left = [name for name in left if name not in right]
    only_right = [name for name in right if name not in left]
    lines = []
    for label, only, others in (
        (first_label, only_left, only_right),
        (second_label, only_right, only_left),
    ):
        if only:
            lines.append(f"{len(only)} only in {label}: {_list_names(only, others, limit)}")
    for label, prefix in (
        (first_label, _added_prefix(left, right)),
        (second_label, _added_prefix(right, left)),
    ):
        if prefix:
            lines.append(f"the names are equal but for the prefix {prefix!r} in {label}")
    return "\n".join(lines)


def _list_names(names: Sequence[str], others: Sequence[str], limit: int) -> str:
    shown = []
    for name in names[:limit]:
        close = closest_name(name, others)
        shown.append(repr(name) if close is None else f"{name!r} (closest: {close!r})")
    if len(names) > limit:
        shown.append("...")
    return ", ".join(shown)


def _added_prefix(longer: dict[str, None], shorter: dict[str, None]) -> str | None:
    """The prefix that turns every name of `shorter` into one of `longer`, if there is one."""
    if not shorter or len(longer) != len(shorter):
        return None
    one = next(iter(shorter))
    for name in longer:
        if name != one and name.endswith(one):
            prefix = name.removesuffix(one)
            if all(prefix + other in longer for other in shorter):
                return prefix
    return None
