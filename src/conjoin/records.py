"""Results: one number each, with everything that says what it is.

A record is one measured value. Tables, figures and reports are made from records alone and never
see a model.
"""

import csv
import io
import json
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from conjoin.atomic import write_bytes
from conjoin.errors import DataError, InputError

__all__ = [
    "Interval",
    "Record",
    "Results",
    "Split",
    "read_records",
    "read_results",
    "write_csv",
    "write_json",
]

Split = Literal["train", "validation", "test", "none"]
"""The part of a data set. What is chosen is chosen on ``validation``; ``test`` is read once.
``none`` is for what needs no data: distances between weights."""

FORMAT = 1


_NUMBERS: Mapping[str, Callable[[Any], float]] = {
    "seed": operator.index,
    "value": float,
    "count": operator.index,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One measured value.

    Args:
        model: the network or combination that was measured (a row of a table).
        task: the data set that it was measured on.
        split: the part of that data set.
        seed: the seed of the run that made the model.
        metric: ``"accuracy"`` (percent), ``"loss"`` (nats), ...
        value: the number; may be infinite or NaN, which JSON and CSV keep.
        count: how many examples it is a mean of.
        how: how the model was made: method, setting, whether a task label is used at test time...

    Raises:
        InputError: the split is none, `seed` or `count` is no whole number, or `value` no number.

    >>> Record("mean", "MNIST", "test", 0, "accuracy", 97.5, 10_000, {"method": "mean"}).value
    97.5
    """

    model: str
    task: str
    split: Split
    seed: int
    metric: str
    value: float
    count: int
    how: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise InputError(f"split is one of {', '.join(get_args(Split))}, not {self.split!r}")
        for name, made in _NUMBERS.items():
            # Numbers of NumPy and torch become Python's.
            object.__setattr__(self, name, _number(getattr(self, name), name, made))
        if self.count < 0:
            raise InputError(f"count of {self.model} on {self.task} is negative: {self.count}")


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference between two models on the same test examples, and how sure it is.

    Args:
        model: the model that was measured.
        against: the model that it is compared with.
        task: the data set.
        metric: ``"accuracy"`` (percentage points), ``"loss"``, ...
        value: mean of ``model`` minus ``against`` over seeds and examples.
        low, high: the ends of the confidence interval.
        level: confidence, 0.95 for instance.
        seeds: how many seeds it is over; with one, it speaks of these networks only.
        count: how many examples.
    """

    model: str
    against: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    level: float
    seeds: int
    count: int


@dataclass(frozen=True, slots=True)
class Results:
    """All that a results file says.

    Args:
        records: measured values.
        intervals: differences between models.
        run: how the run was made, as JSON values.
    """

    records: tuple[Record, ...]
    intervals: tuple[Interval, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)


COLUMNS = tuple(f.name for f in fields(Record))


def write_json(
    path: str | os.PathLike[str],
    records: Iterable[Record],
    *,
    run: Mapping[str, Any] | None = None,
    intervals: Iterable[Interval] = (),
) -> None:
    """Write records, intervals, and how the whole run was made, as one JSON file.

    Numbers that JSON lacks are written as the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``;
    within `how` and `run`, where strings may be anything, as ``{"$number": "NaN"}``. Numbers,
    arrays and tensors become numbers and lists there, and paths texts.

    Raises:
        InputError: `how` or `run` holds something else; or there is no folder to write into.
    """
    rows = [
        {**{name: _spelled(getattr(record, name)) for name in COLUMNS}, "how": _plain(record.how)}
        for record in records
    ]
    found = [{k: _spelled(v) for k, v in asdict(interval).items()} for interval in intervals]
    document = {"format": FORMAT, "run": _plain(run or {}), "intervals": found, "records": rows}
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def write_csv(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write records as CSV; `how` becomes one column of JSON, as of `write_json`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        values = [getattr(record, column) for column in COLUMNS[:-1]]
        writer.writerow(
            [*values, json.dumps(_plain(record.how), sort_keys=True, ensure_ascii=False)]
        )
    write_bytes(path, text.getvalue().encode())


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read what `write_json` or `write_csv` wrote (by suffix).

    Raises:
        DataError: the file is missing, is no such file, or a record in it is malformed.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")  # read_text would change line ends in values
        rows = _rows_of_csv(text) if path.suffix == ".csv" else _rows_of_json(text)
        return [_record(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(f"{path} is not a results file of conjoin: {error}") from error


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read all that `write_json` wrote.

    Raises:
        DataError: the file is missing, is no such file, or something in it is malformed.
    """
    try:
        document = _document(Path(path).read_bytes().decode("utf-8"))
        records = tuple(_record(row) for row in document["records"])
        intervals = tuple(_interval(row) for row in document.get("intervals", []))
        return Results(records, intervals, _revived(dict(document.get("run", {}))))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is not a results file of conjoin: {error}") from error


def _rows_of_json(text: str) -> list[dict[str, Any]]:
    return list(_document(text)["records"])


def _document(text: str) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'expected an object with "format": {FORMAT}')
    return document


def _interval(row: Mapping[str, Any]) -> Interval:
    kinds = {"model": str, "against": str, "task": str, "metric": str, "seeds": int, "count": int}
    return Interval(**{f.name: kinds.get(f.name, float)(row[f.name]) for f in fields(Interval)})


def _rows_of_csv(text: str) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        return _dict_rows(text)
    finally:
        csv.field_size_limit(limit)


def _dict_rows(text: str) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if rows.fieldnames != list(COLUMNS):
        raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
    return [{**row, "how": json.loads(row["how"])} for row in rows]


def _record(row: Mapping[str, Any]) -> Record:
    return Record(
        model=row["model"],
        task=row["task"],
        split=row["split"],
        seed=int(row["seed"]),
        metric=row["metric"],
        value=float(row["value"]),
        count=int(row["count"]),
        how=_revived(dict(row["how"])),
    )


_NUMBERS_THAT_JSON_LACKS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBER = "$number"


def _revived(value: Any) -> Any:
    """Undo `_plain`."""
    if isinstance(value, dict):
        if set(value) == {_NUMBER}:
            return _NUMBERS_THAT_JSON_LACKS[value[_NUMBER]]
        return {_unescaped(key): _revived(inner) for key, inner in value.items()}
    return [_revived(inner) for inner in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Give JSON values only; a number that JSON lacks becomes ``{"$number": "NaN"}``."""
    if isinstance(value, Mapping):
        return {_escaped(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: _spelled(value)}
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of NumPy or torch
        return _plain(value.tolist())
    raise InputError(
        f"what says how something was made is written as JSON, which has no "
        f"{type(value).__name__}: {value!r:.80}; write it as text, numbers, lists or mappings"
    )


def _number(found: Any, name: str, made: Callable[[Any], float]) -> float:
    try:
        if not isinstance(found, str | bytes):
            return made(found)
    except (TypeError, ValueError, RuntimeError):  # of a tensor of several numbers
        pass
    kind = "a number" if made is float else "a whole number"
    raise InputError(f"the {name} of a record is {kind}, not {found!r:.80}")


def _spelled(value: Any) -> Any:
    """Give a number, or the word for one that JSON lacks."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


# A key that somebody has really called "$number" gets another "$".
def _escaped(key: str) -> str:
    return "$" + key if key.startswith("$") and key.lstrip("$") == "number" else key


def _unescaped(key: str) -> str:
    return key[1:] if key.startswith("$$") and key.lstrip("$") == "number" else key
