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

from conjoin.checkpoints import Checkpoint, Spec
from conjoin.recipes.beside import folder_of, parsed_json, read_beside
from conjoin.recipes.matched_rows import MatchedRows, Origins
from conjoin.recipes.problems import Problems
from conjoin.recipes.recipe import BASE, UNION, Recipe, Source, TokenRow, Vocabulary
from conjoin.recipes.tokens import TOKENIZER, added_tokens, entry_of, numbers_of
from conjoin.recipes.values import matches

__all__ = ["EMBEDDINGS", "Matched", "match_vocabulary"]

EMBEDDINGS = (
    "embed_tokens.weight",
    "word_embeddings.weight",
    "wte.weight",
    "embed_in.weight",
    "shared.weight",
)
"""Ends of the names of embeddings of tokens."""
_HEADS = (
    "lm_head.weight",
    "lm_head.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "embed_out.weight",
    "predictions.decoder.weight",
    "predictions.decoder.bias",
    "predictions.bias",
    "vocab_projector.weight",
    "vocab_projector.bias",
)
"""Ends of the names of what has an output for each token."""
_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """The models of a recipe, with a row for each token of the result's vocabulary.

    Args:
        models: in the order they were given in.
        rows: of embeddings, in the model whose tokenizer goes along and in the result.
        entries: what has to be added to that tokenizer.
        files: what the tokens were read from, of every model.
        notes: what should be told.
    """

    models: tuple[Checkpoint, ...]
    rows: tuple[int, int]
    entries: tuple[Mapping[str, Any], ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Model:
    """What is known of one model.

    Args:
        label: for messages.
        listed: token -> its number in the tokenizer.
        numbers: the same of those that have a row.
        added: entries of tokens that were added, by token, of those that have a row.
        names: of tensors with a row for each token.
        rows: how many.
    """

    label: str
    listed: Mapping[str, int]
    numbers: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    names: tuple[str, ...]
    rows: int


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
        _look_at(model, source, number, asked, recipe, problems)
        for number, (model, source) in enumerate(zip(models, sources, strict=True))
    ]
    if any(one is None for one in known):
        return None
    everyone = [one for one in known if one is not None]
    base = len(recipe.sources) if recipe.base is not None else None
    carrier = _carrier(recipe, base)
    numbers, entries, plain = _result(everyone, carrier, asked)
    rows = max(everyone[carrier].rows, 1 + max(numbers.values(), default=-1))
    rows = -(-rows // asked.multiple) * asked.multiple
    own = [_own_rows(one, numbers, rows) for one in everyone]
    origins = _origins(everyone, own, numbers, carrier, base, asked, problems)
    _check_shapes(models, everyone, origins, asked, problems)
    if len(problems):
        return None
    seen = [
        model
        if _is_as_before(origins[number], number, everyone[number].rows)
        else MatchedRows(models, number, everyone[number].names, origins[number])
        for number, model in enumerate(models)
    ]
    files = [folder / TOKENIZER for model in models if (folder := folder_of(model)) is not None]
    return Matched(
        tuple(seen),
        (everyone[carrier].rows, rows),
        tuple(entries),
        tuple(files),
        tuple(_notes(everyone, carrier, numbers, rows, plain)),
    )


def _carrier(recipe: Recipe, base: int | None) -> int:
    """Give the number of the model whose tokenizer goes along, as `carrier_of` does."""
    assert recipe.vocabulary is not None
    chosen = recipe.vocabulary.of
    if chosen == UNION:
        files = recipe.output.files_from
        chosen = files if files is not None else BASE if base is not None else 0
    return base if chosen == BASE and base is not None else int(chosen)


def _look_at(
    model: Checkpoint,
    source: Source,
    number: int,
    asked: Vocabulary,
    recipe: Recipe,
    problems: Problems,
) -> _Model | None:
    which = f"model {number}" if number < len(recipe.sources) else "the base"
    label = f"{which} ({source.reference})"
    tokenizer = parsed_json(read_beside(model, TOKENIZER)) or {}
    numbers = numbers_of(tokenizer)
    if not numbers:
        problems.add(
            source.place,
            f"rows are matched by token, and {label} has no {TOKENIZER} beside its config.json "
            "that says its tokens; transformers' AutoTokenizer.from_pretrained(...) makes one from "
            "other files, and save_pretrained(...) writes it",
        )
        return None
    names, rows = _tensors_of_tokens(model, asked)
    if rows is None:
        what = f"a tensor that matches {', '.join(asked.tensors)}" if asked.tensors else "embedding"
        problems.add(
            asked.place,
            f"rows are matched by token, and {label} has no {what}, or several with other numbers "
            "of rows; say which tensors have a row for each token: `tensors: [PATTERN]`",
        )
        return None
    having = {token: at for token, at in numbers.items() if at < rows}
    added = {token: one for token, one in added_tokens(tokenizer).items() if token in having}
    return _Model(label, numbers, having, added, names, rows)


def _tensors_of_tokens(model: Checkpoint, asked: Vocabulary) -> tuple[tuple[str, ...], int | None]:
    """Give the names of tensors with a row for each token, and how many rows these have."""
    specs = model.specs

    def are_matched(spec: Spec, name: str, ends: Sequence[str]) -> bool:
        root = spec.alias_of or name
        if asked.tensors:
            return any(matches(pattern, one) for pattern in asked.tensors for one in (name, root))
        return name.endswith(tuple(ends)) or root.endswith(tuple(ends))

    counts = {
        spec.shape[0]
        for name, spec in specs.items()
        if spec.shape and are_matched(spec, name, EMBEDDINGS)
    }
    if len(counts) != 1:
        return (), None
    rows = counts.pop()
    names = [
        name
        for name, spec in specs.items()
        if spec.shape[:1] == (rows,) and are_matched(spec, name, (*EMBEDDINGS, *_HEADS))
    ]
    return tuple(names), rows


def _result(
    everyone: Sequence[_Model], carrier: int, asked: Vocabulary
) -> tuple[dict[str, int], list[dict[str, Any]], list[str]]:
    """Give the tokens of the result, entries of the new ones, and which of these are plain.

    A plain token is one that no model has added to its tokenizer: a part of its way to divide text.
    """
    mine = everyone[carrier]
    others = [one for number, one in enumerate(everyone) if number != carrier]
    added = {token: entry for one in reversed(others) for token, entry in one.added.items()}
    wanted = list(asked.tokens)
    if asked.of == UNION:
        known = [sorted(one.numbers, key=one.numbers.__getitem__) for one in others]
        wanted = [
            *(token for one in known for token in one if token not in added),
            *(token for one in known for token in one if token in added),
            *wanted,
        ]
    numbers, entries = dict(mine.numbers), list[dict[str, Any]]()
    free = 1 + max(mine.listed.values())
    for token in dict.fromkeys(wanted):
        if token in mine.listed:  # maybe without a row
            numbers[token] = mine.listed[token]
            continue
        numbers[token] = free + len(entries)
        entries.append(entry_of(token, numbers[token], added.get(token)))
    divided = {token for one in others for token in one.numbers} - added.keys()
    return numbers, entries, [one["content"] for one in entries if one["content"] in divided]


def _own_rows(one: _Model, numbers: Mapping[str, int], rows: int) -> NDArray[np.int64]:
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
    everyone: Sequence[_Model],
    own: Sequence[NDArray[np.int64]],
    numbers: Mapping[str, int],
    carrier: int,
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
        elif base in having:
            chosen = [base] if base is not None else []
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
    everyone: Sequence[_Model],
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
    everyone: Sequence[_Model],
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
                    "each token: `tensors: [PATTERN]`",
                )


def _is_as_before(origins: Origins, number: int, rows: int) -> bool:
    same = len(origins) == rows and bool((origins.model == number).all())
    return same and bool((origins.row == np.arange(rows)).all())


def _notes(
    everyone: Sequence[_Model],
    carrier: int,
    numbers: Mapping[str, int],
    rows: int,
    plain: Sequence[str],
) -> list[str]:
    mine = everyone[carrier]
    new = [token for token in numbers if token not in mine.numbers]
    text = f"rows are matched by token: {len(numbers)} tokens in {rows} rows, those of {mine.label}"
    notes = [text + (f" and {len(new)} more: {_listed(new)}" if new else "")]
    for number, one in enumerate(everyone):
        left_out = [token for token in one.numbers if token not in numbers]
        if left_out:
            notes.append(f"{len(left_out)} tokens of {one.label} are left out: {_listed(left_out)}")
        missing = sum(token not in one.numbers for token in numbers)
        if missing and number != carrier:
            notes.append(f"{one.label} lacks {missing} of the tokens, and gets rows of others")
    if plain:
        notes.append(
            f"{len(plain)} of the new tokens are parts of text by which another tokenizer divides "
            f"it ({_listed(plain)}); they get rows, but the result's divides text as before, and "
            "uses one where it stands in a text as it is"
        )
    return notes


def _listed(tokens: Iterable[str]) -> str:
    found = list(tokens)
    more = ", ..." if len(found) > _SHOWN else ""
    return ", ".join(map(repr, found[:_SHOWN])) + more
