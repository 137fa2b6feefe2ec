"""Config, tokenizer and other files that go along from one model to the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conjoin.checkpoints import Checkpoint, carried_files, is_of_tokenizer
from conjoin.errors import ConjoinError, RecipeError
from conjoin.recipes.beside import folder_of, folder_of_tokenizer, json_bytes, parsed_json
from conjoin.recipes.choosing import label_of
from conjoin.recipes.layers import Stack, find_layers, senses_of
from conjoin.recipes.opening import Opened
from conjoin.recipes.recipe import BASE, UNION, Recipe, Source
from conjoin.recipes.speakers import EMBEDDINGS
from conjoin.recipes.tied_heads import TIED
from conjoin.recipes.tokens import TOKENIZER, with_decoded_tokens, with_tokens

__all__ = [
    "Rows",
    "adjusted",
    "carried_from",
    "carrier_of",
    "layers_before",
    "rows_of_vocabulary",
    "unclear_config",
    "unclear_vocabulary",
]

_LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "depth",
    "encoder_layers",
    "num_encoder_layers",
)
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
"""Where encoder and decoder have numbers of their own, the others are the encoder's."""
_PER_LAYER = ("layer_types", "no_rope_layers")
"""Lists with an entry for each layer."""
_DTYPES = ("torch_dtype", "dtype")


def carried_from(recipe: Recipe, opened: Opened) -> tuple[dict[str, Path], list[str]]:
    """Give the files that go along, by their name in the result, and what to tell about them.

    Whose they are is said by the recipe (``output: {files_from: ...}``); else they are the base's,
    and without a base the first model's.

    Raises:
        RecipeError: that model has a file which leads out of its folder.
    """
    number, checkpoint = carrier_of(recipe, opened)
    if checkpoint is None:
        raise RecipeError(f"{recipe.output.place}: files_from names the base, and there is none")
    source = recipe.base if number == BASE else recipe.sources[int(number)]
    which = "the base" if number == BASE else f"model {number}"
    # The reference, and not the folder: this is written beside the result.
    where = f"{which}, {source.reference}" if source is not None else which
    if not checkpoint.files:
        return {}, [f"config and tokenizer are those of {where}, which has no files here yet"]
    folder = folder_of(checkpoint)
    if folder is None:
        if recipe.output.files_from is not None:
            raise RecipeError(
                f"{recipe.output.place}: there is no config.json beside {checkpoint.source}, so "
                "it has no config and tokenizer to take along"
            )
        return {}, []
    told_too: list[str] = []
    try:
        found = {str(path.relative_to(folder)): path for path in carried_files(folder)}
        if recipe.vocabulary is not None:
            found, told_too = _with_tokenizer(found, recipe, opened, checkpoint)
    except ConjoinError as error:
        raise RecipeError(f"{recipe.output.place}: {error}") from error
    count = f"{len(found)} file{'' if len(found) == 1 else 's'}"
    told = [f"config, tokenizer and the like ({count}) come from {where}"] if found else []
    return found, [*told, *told_too]


def _with_tokenizer(
    found: Mapping[str, Path], recipe: Recipe, opened: Opened, carrier: Checkpoint
) -> tuple[dict[str, Path], list[str]]:
    """Put in the files of the tokenizer whose tokens the result has, and say whose they are."""
    assert recipe.vocabulary is not None
    of = recipe.vocabulary.of
    number, speaker = carrier_of(recipe, opened)
    if of != UNION and not isinstance(of, Source):
        number, speaker = of, opened.base if of == BASE else opened.models[int(of)]
    folder = None if speaker is None else folder_of_tokenizer(speaker, TOKENIZER)
    whose = label_of(recipe, number)
    if isinstance(of, Source) and opened.matched is not None:
        folder, whose = opened.matched.tokenizer, of.reference
    if folder is None or folder == folder_of(carrier):
        return dict(found), []
    # Also that of an adapter, instead of its model's.
    kept = {name: path for name, path in found.items() if not is_of_tokenizer(name)}
    theirs = {str(path.relative_to(folder)): path for path in carried_files(folder)}
    kept |= {name: path for name, path in theirs.items() if is_of_tokenizer(name)}
    return dict(sorted(kept.items())), [f"the tokenizer is that of {whose}"]


def carrier_of(recipe: Recipe, opened: Opened) -> tuple[int | str, Checkpoint | None]:
    """Give the number of the model that files are carried from, and the model."""
    chosen = recipe.output.files_from
    of = UNION if recipe.vocabulary is None else recipe.vocabulary.of
    if chosen is None and of != UNION and not isinstance(of, Source):
        chosen = of
    number = chosen if chosen is not None else BASE if opened.base is not None else 0
    return number, opened.base if number == BASE else opened.models[int(number)]


def unclear_config(
    carried: Mapping[str, Path], plan_names: Mapping[str, Any], recipe: Recipe, before: int | None
) -> list[str]:
    """Say so if layers are stacked and the config does not tell where their number stands.

    Args:
        carried: files that go along.
        plan_names: of the tensors of the result.
        recipe: what is made.
        before: layers of the model that the files are of.
    """
    if not recipe.stacked or "config.json" not in carried:
        return []
    config = parsed_json(carried["config.json"].read_bytes())
    stacks = find_layers(plan_names, recipe.layers).stacks
    if config is None or len(stacks) != 1 or _places_of(stacks[0], config, plan_names, before):
        return []
    return [
        f"config.json does not say clearly which number is that of the layers {stacks[0].pattern}; "
        f"the result has {len(stacks[0])}: write it there before you load it"
    ]


def layers_before(recipe: Recipe, opened: Opened) -> int | None:
    """Count the layers of the model that files are carried from; None if that is not clear."""
    _, checkpoint = carrier_of(recipe, opened)
    if checkpoint is None or not recipe.stacked:
        return None
    stacks = find_layers(checkpoint.specs, recipe.layers).stacks
    return len(stacks[0]) if len(stacks) == 1 else None


_TOKENIZERS = {TOKENIZER: with_tokens, "tokenizer_config.json": with_decoded_tokens}

Rows = tuple[int, int]
"""Rows of the embeddings of tokens: in the model that files are carried from, and in the result."""


def rows_of_vocabulary(recipe: Recipe, opened: Opened, specs: Mapping[str, Any]) -> Rows | None:
    """Count the rows of the embeddings before and in the result; None if they are the same.

    Args:
        recipe: what is made.
        opened: its models.
        specs: of the tensors of the result.
    """
    if opened.matched is not None:
        before, after = opened.matched.rows
        return None if before == after else (before, after)
    _, checkpoint = carrier_of(recipe, opened)
    if checkpoint is None:
        return None
    counts = [
        {one[name].shape[0] for name in one if name.endswith(EMBEDDINGS) and one[name].shape}
        for one in (checkpoint.specs, specs)
    ]
    if any(len(one) != 1 for one in counts) or counts[0] == counts[1]:
        return None
    return counts[0].pop(), counts[1].pop()


def unclear_vocabulary(carried: Mapping[str, Path], rows: Rows | None) -> list[str]:
    """Say so if the number of rows changes and the config does not say what it was."""
    if rows is None or "config.json" not in carried:
        return []
    config = parsed_json(carried["config.json"].read_bytes())
    if config is None or any(found.get("vocab_size") == rows[0] for _, found in _configs(config)):
        return []
    return [
        f"config.json does not have {rows[0]} as vocab_size; the result has {rows[1]} rows: write "
        "it there before you load it"
    ]


def adjusted(
    name: str,
    content: bytes,
    plan_names: Mapping[str, Any],
    recipe: Recipe,
    before: int | None,
    rows: Rows | None = None,
    entries: Sequence[Mapping[str, Any]] = (),
    *,
    untied: bool = False,
) -> bytes:
    """Give the content of a carried file for the result: a config says layers, rows and dtype.

    A tokenizer gets the tokens that are new to it.

    A list with an entry for each layer gets those of the layers of the first model of each slice.
    A model of several parts has a config for each, in which layers and dtype are looked for too.

    Args:
        name: of the file.
        content: as it is.
        plan_names: of the tensors of the result.
        recipe: what is made.
        before: layers of the model that the file is of, see `layers_before`.
        rows: of embeddings, see `rows_of_vocabulary`.
        entries: of new tokens, see `Matched`.
        untied: whether the result has a head of its own, whatever the config says.
    """
    if entries and name in _TOKENIZERS:
        return _TOKENIZERS[name](content, entries)
    changed = recipe.stacked or recipe.dtype is not None or rows is not None or untied
    if name != "config.json" or not changed:
        return content
    config = parsed_json(content)
    if config is None:
        return content
    if recipe.stacked:
        _restack(config, recipe, plan_names, before)
    if rows is not None:
        for _, found in _configs(config):
            if found.get("vocab_size") == rows[0]:
                found["vocab_size"] = rows[1]
    if untied:
        config[TIED] = False
        for _, found in _configs(config):
            if TIED in found:
                found[TIED] = False
    if recipe.dtype is not None:
        for _, found in _configs(config):
            for key in _DTYPES:
                if key in found:
                    found[key] = recipe.dtype.name
    return json_bytes(config)


def _restack(
    config: dict[str, Any], recipe: Recipe, plan_names: Mapping[str, Any], before: int | None
) -> None:
    stacks = find_layers(plan_names, recipe.layers).stacks
    places = _places_of(stacks[0], config, plan_names, before) if len(stacks) == 1 else []
    if before is None:
        return
    taken = [
        number for part in recipe.parts for number in range(*(part.uses[0].layers or (0, before)))
    ]
    for found, counts in places:
        for key in _PER_LAYER:
            listed = found.get(key)
            if isinstance(listed, list) and len(listed) == before > max(taken):
                found[key] = [listed[number] for number in taken]
        for key in counts:
            found[key] = len(stacks[0])


Place = tuple[dict[str, Any], list[str]]
"""A config and its keys that hold a number of layers."""


def _places_of(
    stack: Stack, config: dict[str, Any], plan_names: Iterable[str], before: int | None
) -> list[Place]:
    """Say where a config has the number of a stack's layers.

    That is in the config itself, in one of those in it (``text_config`` beside ``vision_config``),
    or in both. The number there has to be the one that the model has.

    Returns:
        All places; none if it is not clear whose number it is.
    """
    prefixes = [one.prefix for one in find_layers(plan_names).stacks]
    both = all(any(side in prefix for prefix in prefixes) for side in ("encoder", "decoder"))
    root, *inner = (
        (name, (found, _counts(found, stack.prefix, both=both))) for name, found in _configs(config)
    )
    inner = [(name, place) for name, place in inner if place[1]]
    mine = [place for name, place in inner if senses_of(name) == senses_of(stack.prefix)]
    if len(mine) > 1:
        mine = [p for n, p in inner if n.rpartition(".")[2].removesuffix("_config") in stack.prefix]
    found = mine if len(mine) == 1 else []
    if root[1][1] and (not senses_of(stack.prefix) or not inner):
        found = [root[1], *found]
    return found if all(one[key] == before for one, keys in found for key in keys) else []


def _counts(config: Mapping[str, Any], prefix: str, *, both: bool) -> list[str]:
    """Give the keys of a config that hold the number of a stack's layers.

    Args:
        config: or one in it.
        prefix: of the stack.
        both: whether the model has an encoder and a decoder.
    """
    two = any(type(config.get(key)) is int for key in _DECODER_COUNTS)
    if both and not two:
        return []  # one number for both, of which one stays as it is
    keys = _DECODER_COUNTS if two and "decoder" in prefix else _LAYER_COUNTS
    return [key for key in keys if type(config.get(key)) is int]


def _configs(config: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a config, and all configs of parts in it, with the names of their keys."""
    yield name, config
    for key, inner in config.items():
        is_part = isinstance(inner, dict) and (key.endswith("_config") or "model_type" in inner)
        if is_part and key != "quantization_config":
            yield from _configs(inner, f"{name}.{key}")
