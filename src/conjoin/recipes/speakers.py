"""The tokens of one model: their numbers, and which tensors have a row for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.checkpoints import Checkpoint, HeadersOnly, Spec, innermost, parse_reference
from conjoin.errors import ConjoinError
from conjoin.recipes.beside import folder_of_tokenizer, parsed_json
from conjoin.recipes.choosing import label_of
from conjoin.recipes.problems import Problems
from conjoin.recipes.recipe import BASE, Recipe, Source, Vocabulary
from conjoin.recipes.tokens import (
    TOKENIZER,
    added_tokens,
    count_listed,
    numbers_of,
    what_is_wrong,
)
from conjoin.recipes.values import matches

__all__ = ["EMBEDDINGS", "Speaker", "look_at", "look_at_tokenizer"]

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


@dataclass(frozen=True)
class Speaker:
    """What is known of one model.

    Args:
        label: for messages.
        path: of its ``tokenizer.json``.
        listed: token -> its number in the tokenizer.
        numbers: the same of those that have a row.
        added: entries of tokens that were added, by token.
        count: how many tokens there are besides.
        names: of tensors with a row for each token.
        rows: how many.
    """

    label: str
    path: Path
    listed: Mapping[str, int]
    numbers: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    count: int
    names: tuple[str, ...]
    rows: int


def look_at(
    model: Checkpoint,
    source: Source,
    number: int,
    asked: Vocabulary,
    recipe: Recipe,
    problems: Problems,
) -> Speaker | None:
    """Look at a model of a recipe; None, and a problem is noted, if its tokens cannot be told.

    Args:
        model: opened.
        source: what the recipe says of it.
        number: among those of the recipe, the base last.
        asked: the vocabulary.
        recipe: of which.
        problems: where to note what is wrong.
    """
    label = label_of(recipe, number if number < len(recipe.sources) else BASE)
    if isinstance(innermost(model), HeadersOnly):
        problems.add(
            source.place,
            f"rows are matched by token, and {label} has to be downloaded before its tokenizer "
            "can be looked at",
        )
        return None
    folder = folder_of_tokenizer(model, TOKENIZER)
    if folder is None:
        problems.add(
            source.place,
            f"rows are matched by token, and {label} has no {TOKENIZER} beside its config.json "
            "that says its tokens; transformers' AutoTokenizer.from_pretrained(...) makes one from "
            "other files, and save_pretrained(...) writes it",
        )
        return None
    path = folder / TOKENIZER
    tokenizer = _tokenizer_at(path, label, source, problems)
    if tokenizer is None:
        return None
    names, rows = _tensors_of_tokens(model, asked)
    if rows is None:
        what = f"tensor that matches {', '.join(asked.tensors)}" if asked.tensors else "embedding"
        problems.add(
            asked.place,
            f"rows are matched by token, and {label} has no {what}, or several with other numbers "
            "of rows; say which tensors have a row for each token, in conjoin's own recipes: "
            "`vocabulary: {of: ..., tensors: [PATTERN]}`",
        )
        return None
    numbers = numbers_of(tokenizer)
    having = {token: at for token, at in numbers.items() if at < rows}
    added, count = added_tokens(tokenizer), count_listed(tokenizer)
    return Speaker(label, path, numbers, having, added, count, names, rows)


def look_at_tokenizer(source: Source, recipe: Recipe, problems: Problems) -> Speaker | None:
    """Look at the tokenizer of a model that is not merged, which need not have weights.

    Args:
        source: what the recipe says of it.
        recipe: of which.
        problems: where to note what is wrong.
    """
    try:
        path = recipe.folder / parse_reference(source.reference, relative_to=recipe.folder).model
    except ConjoinError as error:
        problems.add(source.place, str(error))
        return None
    path = path / TOKENIZER
    if not path.is_file():
        problems.add(
            source.place,
            f"{source.reference!r} is none of the models that are merged, so only its tokenizer is "
            f"needed, and there is no file {path}; of a model on the Hub, download the tokenizer "
            f"into a folder (hf download {source.reference} --include 'tokenizer*' 'special*' "
            "--local-dir FOLDER), and write that folder",
        )
        return None
    tokenizer = _tokenizer_at(path, source.reference, source, problems)
    if tokenizer is None:
        return None
    numbers, added = numbers_of(tokenizer), added_tokens(tokenizer)
    count = count_listed(tokenizer)
    return Speaker(source.reference, path, numbers, numbers, added, count, (), 0)


def _tokenizer_at(
    path: Path, label: str, source: Source, problems: Problems
) -> dict[str, Any] | None:
    try:
        tokenizer = parsed_json(path.read_bytes())
    except OSError as error:
        problems.add(source.place, f"cannot read {path}: {error.strerror or error}")
        return None
    wrong = "it is no JSON object" if tokenizer is None else what_is_wrong(tokenizer)
    if wrong is not None:
        problems.add(
            source.place,
            f"rows are matched by token, and {path} does not say the tokens of {label}: {wrong}; "
            "load it with the library that it is of, and save it again",
        )
        return None
    return tokenizer


def _tensors_of_tokens(model: Checkpoint, asked: Vocabulary) -> tuple[tuple[str, ...], int | None]:
    """Give the names of tensors with a row for each token, and how many rows these have."""
    specs = model.specs

    def are_matched(spec: Spec, name: str, ends: Sequence[str]) -> bool:
        root = spec.alias_of or name
        if asked.tensors:
            return any(matches(pattern, one) for pattern in asked.tensors for one in (name, root))
        return name.endswith(tuple(ends)) or root.endswith(tuple(ends))

    names = [n for n, spec in specs.items() if are_matched(spec, n, (*EMBEDDINGS, *_HEADS))]
    embedded = asked.tensors or any(are_matched(specs[name], name, EMBEDDINGS) for name in names)
    counts = {specs[name].shape[:1] for name in names}
    if not embedded or len(counts) != 1 or counts == {()}:
        return (), None
    return tuple(names), counts.pop()[0]
