"""Rows of embeddings and heads matched by token: whose row each token of the result gets.

    tokens of all models ──► tokens of the result ──► of every model, where its rows come from
                                                 └──► entries for the tokenizer that goes along

A model that lacks a token gets the row of the only model that has it; of several, that of the base
if it is one of them, and else their mean. So a token that one model alone knows has its row in all,
and keeps it in the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoints import Checkpoint
from conjoin.recipes.matched_rows import MatchedRows, Origins
from conjoin.recipes.problems import Problems
from conjoin.recipes.recipe import BASE, UNION, Recipe, Source, TokenRow, Vocabulary
from conjoin.recipes.speakers import Speaker, look_at, look_at_tokenizer
from conjoin.recipes.tokens import entry_of, next_number

__all__ = ["Matched", "match_vocabulary"]

_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """The models of a recipe, with a row for each token of the result's vocabulary.

    Args:
        models: in the order they were given in.
        rows: of embeddings, in the model whose config goes along and in the result.
        entries: what has to be added to that tokenizer.
        files: what the tokens were read from, of every model.
        tokenizer: the folder whose tokenizer goes along, if that is of a model that is not merged.
        notes: what should be told.
    """

    models: tuple[Checkpoint, ...]
    rows: tuple[int, int]
    entries: tuple[Mapping[str, Any], ...]
    files: tuple[Path, ...]
    tokenizer: Path | None
    notes: tuple[str, ...]


def match_vocabulary(
    recipe: Recipe, models: Sequence[Checkpoint], problems: Problems
) -> Matched | None:
    """Match the rows of all models of a recipe that says so.

    Args:
        recipe: with a vocabulary.
        models: in the order of its sources, the base last.
        problems: where to note what does not fit; None is given then.
    """
    asked = recipe.vocabulary
    assert asked is not None
    sources = [*recipe.sources, *([] if recipe.base is None else [recipe.base])]
    known = [
        look_at(model, source, number, asked, recipe, problems)
        for number, (model, source) in enumerate(zip(models, sources, strict=True))
    ]
    outside = None
    if isinstance(asked.of, Source):
        outside = look_at_tokenizer(asked.of, recipe, problems)
    if len(problems):
        return None
    everyone = [one for one in known if one is not None]
    base = len(recipe.sources) if recipe.base is not None else None
    carrier = _carrier(recipe, base)
    mine = everyone[carrier] if outside is None else outside
    preferred = base if asked.preferred is None else asked.preferred
    numbers, entries, plain = _result(everyone, mine, asked)
    rows = max(mine.rows, 1 + max(numbers.values(), default=-1))
    if not _are_usual(numbers, everyone, mine, asked, problems):
        return None
    rows = -(-rows // asked.multiple) * asked.multiple
    own = [_own_rows(one, numbers, rows) for one in everyone]
    origins = _origins(everyone, own, numbers, carrier, preferred, base, asked, problems)
    _check_shapes(models, everyone, origins, asked, problems)
    if len(problems):
        return None
    seen = [
        model
        if _is_as_before(origins[number], number, everyone[number].rows)
        else MatchedRows(models, number, everyone[number].names, origins[number])
        for number, model in enumerate(models)
    ]
    return Matched(
        tuple(seen),
        (everyone[_whose_config(recipe, base, carrier)].rows, rows),
        tuple(entries),
        tuple(one.path for one in everyone),
        None if outside is None else outside.path.parent,
        tuple(_notes(everyone, mine, numbers, rows, plain)),
    )


def _carrier(recipe: Recipe, base: int | None) -> int:
    """Give the number of the model whose tokenizer goes along, if that is of a model."""
    assert recipe.vocabulary is not None
    chosen = recipe.vocabulary.of
    if chosen == UNION or isinstance(chosen, Source):
        files = recipe.output.files_from
        chosen = files if files is not None else BASE if base is not None else 0
    return base if chosen == BASE and base is not None else int(chosen)


def _whose_config(recipe: Recipe, base: int | None, carrier: int) -> int:
    """Give the number of the model whose config goes along, as `carrier_of` does."""
    files = recipe.output.files_from
    if files is None:
        return carrier
    return base if files == BASE and base is not None else int(files)


def _result(
    everyone: Sequence[Speaker], mine: Speaker, asked: Vocabulary
) -> tuple[dict[str, int], list[dict[str, Any]], list[str]]:
    """Give the tokens of the result, entries of the new ones, and which of these are plain.

    A plain token is one that no model has added to its tokenizer: a part of its way to divide text.
    """
    others = [one for one in everyone if one is not mine]
    added = {
        token: entry
        for one in reversed(others)
        for token, entry in one.added.items()
        if token in one.numbers
    }
    wanted = list(asked.tokens)
    if asked.of == UNION:
        known = [sorted(one.numbers, key=one.numbers.__getitem__) for one in others]
        wanted = [
            *(token for one in known for token in one if token not in added),
            *(token for one in known for token in one if token in added),
            *wanted,
        ]
    numbers, again = dict(mine.numbers), list[dict[str, Any]]()
    entries = list[dict[str, Any]]()
    free = next_number(mine.count, (entry["id"] for entry in mine.added.values()))
    for token in dict.fromkeys(wanted):
        if token not in mine.listed:
            numbers[token] = free + len(entries)
            entries.append(entry_of(token, numbers[token], added.get(token)))
            continue
        numbers[token] = mine.listed[token]  # maybe without a row
        if token in added and token not in mine.added:
            # A part of text here, which no text need be divided into.
            again.append(entry_of(token, numbers[token], added[token]))
    divided = {token for one in others for token in one.numbers} - added.keys()
    plain = [one["content"] for one in entries if one["content"] in divided]
    return numbers, [*again, *entries], plain


def _are_usual(
    numbers: Mapping[str, int],
    everyone: Sequence[Speaker],
    mine: Speaker,
    asked: Vocabulary,
    problems: Problems,
) -> bool:
    """Note numbers that two tokens have, or that would take a lot of memory for nothing."""
    before = len(problems)
    taken = {number: token for token, number in mine.listed.items()}
    for token, number in numbers.items():
        if taken.setdefault(number, token) != token:
            problems.add(
                asked.place,
                f"the number of a new token, {number}, is that of {taken[number]!r} in {mine.path}:"
                " the numbers of its tokens do not follow each other, so that none can be added",
            )
            break
    known = everyone if mine in everyone else [*everyone, mine]
    most = 2 * sum(one.rows + len(one.listed) for one in known) + len(numbers)
    for token, number in numbers.items():
        if number >= most:
            problems.add(
                asked.place,
                f"{token!r} has the number {number} in {mine.path}, far beyond the rows of all "
                "models",
            )
            break
    return len(problems) == before


def _own_rows(one: Speaker, numbers: Mapping[str, int], rows: int) -> NDArray[np.int64]:
    """Give the row that a model has for each row of the result; -1 where it has none."""
    own = np.full(rows, -1, dtype=np.int64)
    for token, number in numbers.items():
        own[number] = one.numbers.get(token, -1)
    # Rows without a token are the model's own where it has no token there either.
    taken = np.zeros(rows, dtype=bool)
    taken[list(numbers.values())] = True
    theirs = np.zeros(max(rows, one.rows), dtype=bool)
    theirs[list(one.numbers.values())] = True
    free = np.arange(min(rows, one.rows))
    free = free[~taken[free] & ~theirs[free]]
    own[free] = free
    return own


def _origins(
    everyone: Sequence[Speaker],
    own: Sequence[NDArray[np.int64]],
    numbers: Mapping[str, int],
    carrier: int,
    preferred: int | None,
    base: int | None,
    asked: Vocabulary,
    problems: Problems,
) -> list[Origins]:
    """Say for each model where its rows come from."""
    have = np.stack(own) >= 0
    tokens = {number: token for token, number in numbers.items()}
    instead: dict[int, list[tuple[int, int]]] = {}
    padding: set[int] = set()
    everywhere: list[int] = []
    for row in map(int, np.flatnonzero(~have.all(0))):
        having = [int(number) for number in np.flatnonzero(have[:, row])]
        chosen = having
        if tokens.get(row) is None:
            chosen = [carrier] if carrier in having else having[:1]
            padding |= set() if having else {row}
        elif preferred is not None and preferred in having:
            chosen = [preferred]
        instead[row] = [(number, int(own[number][row])) for number in chosen]
    for token, said in asked.tokens.items():
        if said is None:
            continue
        row = numbers[token]
        instead[row] = _said_row(token, said, everyone, base, problems)
        if said.everywhere:
            everywhere.append(row)
    found = []
    for number, rows in enumerate(own):
        model = np.where(rows >= 0, number, -1)
        at = rows.copy()
        model[everywhere] = -1
        means = {}
        for row in map(int, np.flatnonzero(model < 0)):
            origin = instead[row]
            if len(origin) == 1:
                model[row], at[row] = origin[0]
            elif origin:
                means[row] = origin
        found.append(Origins(model, at, means, frozenset(padding)))
    return found


def _said_row(
    token: str,
    said: TokenRow,
    everyone: Sequence[Speaker],
    base: int | None,
    problems: Problems,
) -> list[tuple[int, int]]:
    """Give the row that a recipe says for a token; nothing for zeros."""
    if said.source is None:
        return []
    number = base if said.source == BASE and base is not None else int(said.source)
    one = everyone[number]
    if isinstance(said.token, int):
        if said.token < one.rows:
            return [(number, said.token)]
        problems.add(said.place, f"{one.label} has {one.rows} rows, and none {said.token}")
        return []
    wanted = token if said.token is None else said.token
    if wanted not in one.numbers:
        problems.add(said.place, f"{one.label} has no token {wanted!r}, or no row for it")
        return []
    return [(number, one.numbers[wanted])]


def _check_shapes(
    models: Sequence[Checkpoint],
    everyone: Sequence[Speaker],
    origins: Sequence[Origins],
    asked: Vocabulary,
    problems: Problems,
) -> None:
    changed = [
        number
        for number, origin in enumerate(origins)
        if not _is_as_before(origin, number, everyone[number].rows)
    ]
    for number in changed:
        used = {int(one) for one in np.unique(origins[number].model) if one >= 0}
        used |= {one for rows in origins[number].means.values() for one, _ in rows}
        for name in everyone[number].names:
            width = models[number].specs[name].shape[1:]
            for other in sorted(used - {number}):
                spec = models[other].specs.get(name)
                if spec is None or spec.shape[1:] != width:
                    what = "no such tensor" if spec is None else f"rows {list(spec.shape[1:])}"
                    problems.add(
                        asked.place,
                        f"rows of {name!r} in {everyone[number].label}, {list(width)} each, are to "
                        f"come from {everyone[other].label}, which has {what}",
                    )
    if not changed or asked.tensors:
        return
    # What else has a dimension of the size of the vocabulary most likely is of tokens too.
    for name, spec in models[0].specs.items():
        shapes = [one.specs[name].shape for one in models if name in one.specs]
        hidden = {size for one in everyone[0].names for size in models[0].specs[one].shape[1:]}
        if name in everyone[0].names or any(len(shape) != len(spec.shape) for shape in shapes):
            continue
        for axis in range(len(spec.shape)):
            sizes = [shape[axis] for shape in shapes]
            if sizes == [one.rows for one in everyone] and not {*sizes} & hidden:
                problems.add(
                    asked.place,
                    f"{name!r} has as many entries as there are tokens ({sizes[0]}), and its name "
                    "does not tell whether it has one for each; say which tensors have a row for "
                    "each token, in conjoin's own recipes: `vocabulary: {of: ..., tensors: "
                    "[PATTERN]}`",
                )


def _is_as_before(origins: Origins, number: int, rows: int) -> bool:
    same = len(origins) == rows and bool((origins.model == number).all())
    return same and bool((origins.row == np.arange(rows)).all())


def _notes(
    everyone: Sequence[Speaker],
    mine: Speaker,
    numbers: Mapping[str, int],
    rows: int,
    plain: Sequence[str],
) -> list[str]:
    new = [token for token in numbers if token not in mine.numbers]
    text = f"rows are matched by token: {len(numbers)} tokens in {rows} rows, those of {mine.label}"
    notes = [text + (f" and {len(new)} more: {_listed(new)}" if new else "")]
    for one in everyone:
        left_out = [token for token in one.numbers if token not in numbers]
        if left_out:
            notes.append(f"{len(left_out)} tokens of {one.label} are left out: {_listed(left_out)}")
        missing = sum(token not in one.numbers for token in numbers)
        if missing and one is not mine:
            notes.append(f"{one.label} lacks {missing} of the tokens, and gets rows of others")
    if plain:
        notes.append(
            f"{len(plain)} of the new tokens are parts of text by which another tokenizer divides "
            f"it ({_listed(plain)}); as added tokens they are cut out of a text before it is "
            "divided, so that the result divides text otherwise than any of the models"
        )
    return notes


def _listed(tokens: Iterable[str]) -> str:
    found = list(tokens)
    more = ", ..." if len(found) > _SHOWN else ""
    return ", ".join(map(repr, found[:_SHOWN])) + more
