"""Numbers and names as people read them: one way for tables, figures and sentences."""

import math
from collections.abc import Sequence
from typing import Literal

from conjoin.records import Interval

__all__ = [
    "amount",
    "describe_interval",
    "difference",
    "listing",
    "markdown_escaped",
    "markdown_row",
    "number",
    "one_line",
    "percent",
    "quoted",
    "signed",
    "verdict",
]

_IN_PERCENT = ("accuracy", "calibration error")


def percent(metric: str) -> bool:
    """Whether a metric is in percent, so that differences of it are percentage points.

    >>> percent("accuracy barrier"), percent("loss")
    (True, False)
    """
    return metric.startswith(_IN_PERCENT)


def number(value: float, metric: str, *, decimals: int = 1) -> str:
    """Write a value of a metric: percent with one decimal, anything else with three digits.

    Args:
        value: may be infinite or NaN.
        metric: says whether it is in percent.
        decimals: of percent.

    >>> number(79.26, "accuracy"), number(0.03214, "loss"), number(-0.01, "accuracy")
    ('79.3', '0.0321', '0.0')
    >>> number(float("nan"), "loss"), number(float("inf"), "loss")
    ('NaN', 'inf')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if percent(metric):
        return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no "-0.0"
    return _three_digits(value)


def signed(value: float, metric: str, *, decimals: int = 1) -> str:
    """Write a difference, with its sign.

    >>> signed(-19.96, "accuracy"), signed(-0.04, "accuracy"), signed(0.0321, "loss")
    ('-20.0', '+0.0', '+0.0321')
    """
    text = number(value, metric, decimals=decimals)
    return text if text.startswith(("-", "NaN")) else f"+{text}"


def difference(value: float, metric: str, *, decimals: int = 1) -> str:
    """Write how large a difference is, with its unit and without its sign.

    >>> difference(-19.96, "accuracy"), difference(0.0321, "loss")
    ('20.0 points', '0.0321 in loss')
    """
    text = number(abs(value), metric, decimals=decimals)
    return f"{text} points" if percent(metric) else f"{text} in loss"


def amount(value: float, metric: str) -> str:
    """Write a value with its unit, for a sentence.

    >>> amount(79.26, "accuracy"), amount(0.0321, "loss")
    ('79.3 %', '0.0321')
    """
    return f"{number(value, metric)} %" if percent(metric) else number(value, metric)


def verdict(interval: Interval) -> Literal["better", "worse", "no different", "unknown"]:
    """Say what an interval shows: better or worse only if it excludes 0; unknown if it has NaN."""
    if any(map(math.isnan, (interval.value, interval.low, interval.high))):
        return "unknown"
    if interval.low <= 0 <= interval.high:
        return "no different"
    higher_is_better = interval.metric == "accuracy"
    return "better" if (interval.low > 0) == higher_is_better else "worse"


def describe_interval(interval: Interval) -> str:
    """Say how the model of an interval differs from the one that it is compared with.

    >>> found = Interval("a", "b", "MNIST", "accuracy", -20.0, -21.0, -19.0, 0.95, 2, 1000)
    >>> describe_interval(found)
    '20.0 points worse (95 % interval -21.0 to -19.0)'
    """
    metric, seen = interval.metric, verdict(interval)
    # An end that is not 0 must not look like it.
    near = min(abs(interval.low), abs(interval.high)) < 0.05
    decimals = 2 if near and seen in ("better", "worse") else 1
    low, high = (signed(end, metric, decimals=decimals) for end in (interval.low, interval.high))
    span = f"{100 * interval.level:g} % interval {low} to {high}"
    if seen in ("better", "worse"):
        size = difference(interval.value, metric, decimals=decimals)
        return f"{size} {seen} ({span})" if percent(metric) else f"{seen} by {size} ({span})"
    change = signed(interval.value, metric) + (" points" if percent(metric) else " in loss")
    if seen == "no different":
        return f"no different, within the error ({change}, {span})"
    return f"different by an unknown amount ({change}, {span})"


def listing(parts: Sequence[str]) -> str:
    """Join as a sentence does.

    >>> listing(["a"]), listing(["a", "b"]), listing(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([*([", ".join(parts[:-1])] if parts[:-1] else []), *parts[-1:]])


def markdown_escaped(text: str) -> str:
    r"""Give text that Markdown shows as it stands.

    >>> print(markdown_escaped("a|b*"))
    a\|b\*
    """
    return "".join("\\" + c if c in "\\|*_<>[]`#~&$" else c for c in one_line(text))


def markdown_row(name: str, cells: Sequence[str]) -> str:
    """Give a row of a table in Markdown; the texts are taken as they are.

    >>> markdown_row("mean", ["97.5", ""])
    '| mean | 97.5 |  |'
    """
    return f"| {' | '.join([name, *cells])} |"


def quoted(name: str) -> str:
    """Put a name into quotation marks; the name itself is not changed.

    >>> quoted("mean")
    '“mean”'
    """
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def one_line(text: str) -> str:
    r"""Give text that a terminal shows as it stands: white space is a space, controls are escaped.

    >>> print(one_line("a\n b \x1b[31m \u202e"))
    a b \x1b[31m \u202e
    """
    words = " ".join(text.split())
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in words
    )


def _three_digits(value: float) -> str:
    rounded = float(f"{value:.2e}") + 0.0
    if rounded == 0:
        return "0.00"
    if math.isinf(rounded):  # the largest floats must not be rounded up: no float is larger
        rounded = math.copysign(1.79e308, value)
    exponent = math.floor(math.log10(abs(rounded)))
    if not -4 <= exponent <= 5:
        return f"{rounded:.2e}"
    return f"{rounded:.{max(0, 2 - exponent)}f}"
