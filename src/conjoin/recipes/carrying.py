"""Config, tokenizer and other files that go along from one model to the result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from conjoin.checkpoints import Checkpoint, carried_files
from conjoin.errors import ConjoinError, RecipeError
from conjoin.recipes.layers import Stack, find_layers
from conjoin.recipes.opening import Opened
from conjoin.recipes.recipe import BASE, Recipe

__all__ = ["adjusted", "carried_from", "folder_of", "unclear_config"]

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_PER_LAYER = ("layer_types", "no_rope_layers")
"""Lists with an entry for each layer."""
_SENSES = ("vision", "visual", "image", "audio", "speech")
"""Words in names of parts, and in keys of their configs, that are not for text."""
_DTYPES = ("torch_dtype", "dtype")


def carried_from(recipe: Recipe, opened: Opened) -> tuple[dict[str, Path], list[str]]:
    """Give the files that go along, by their name in the result, and what to tell about them.

    Whose they are is said by the recipe (``output: {files_from: ...}``); else they are the base's,
    and without a base the first model's.

    Raises:
        RecipeError: that model has a file which leads out of its folder.
    """
    chosen = recipe.output.files_from
    number = chosen if chosen is not None else BASE if opened.base is not None else 0
    checkpoint = opened.base if number == BASE else opened.models[int(number)]
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
        if chosen is not None:
            raise RecipeError(
                f"{recipe.output.place}: there is no config.json beside {checkpoint.source}, so "
                "it has no config and tokenizer to take along"
            )
        return {}, []
    try:
        found = {str(path.relative_to(folder)): path for path in carried_files(folder)}
    except ConjoinError as error:
        raise RecipeError(f"{recipe.output.place}: {error}") from error
    count = f"{len(found)} file{'' if len(found) == 1 else 's'}"
    told = [f"config, tokenizer and the like ({count}) come from {where}"] if found else []
    return found, told


def folder_of(checkpoint: Checkpoint) -> Path | None:
    """Give the folder with the config of a model, or None where there is no config."""
    # The first file is the model's own; those of an adapter come after it.
    parents = [path.parent for path in checkpoint.files[:1]]
    return parents[0] if parents and (parents[0] / "config.json").is_file() else None


def unclear_config(
    carried: Mapping[str, Path], plan_names: Mapping[str, Any], recipe: Recipe
) -> list[str]:
    """Say so if layers are stacked and the config does not tell where their number stands.

    Args:
        carried: files that go along.
        plan_names: of the tensors of the result.
        recipe: what is made.
    """
    if not recipe.stacked or "config.json" not in carried:
        return []
    config = _parsed(carried["config.json"].read_bytes())
    stacks = find_layers(plan_names, recipe.layers).stacks
    if config is None or len(stacks) != 1 or _config_of(stacks[0], config, recipe) is not None:
        return []
    return [
        f"config.json does not say clearly which number is that of the layers {stacks[0].pattern}; "
        f"the result has {len(stacks[0])}: write it there before you load it"
    ]


def adjusted(name: str, content: bytes, plan_names: Mapping[str, Any], recipe: Recipe) -> bytes:
    """Give the content of a carried file for the result: a config says its layers and dtype.

    A list with an entry for each layer gets those of the layers of the first model of each slice.
    A model of several parts has a config for each, in which layers and dtype are looked for too.
    """
    if name != "config.json" or not (recipe.stacked or recipe.dtype is not None):
        return content
    config = _parsed(content)
    if config is None:
        return content
    if recipe.stacked:
        _restack(config, recipe, plan_names)
    if recipe.dtype is not None:
        inner = (one for one in config.values() if isinstance(one, dict) and "model_type" in one)
        for found in (config, *inner):
            for key in _DTYPES:
                if key in found:
                    found[key] = _dtype_name(recipe.dtype)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        config = json.loads(content)
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _restack(config: dict[str, Any], recipe: Recipe, plan_names: Mapping[str, Any]) -> None:
    stacks = find_layers(plan_names, recipe.layers).stacks
    found = _config_of(stacks[0], config, recipe) if len(stacks) == 1 else None
    if found is None:
        return
    counts = _counts(found)
    before = found[counts[0]]
    taken = [
        number for part in recipe.parts for number in range(*(part.uses[0].layers or (0, before)))
    ]
    for key in _PER_LAYER:
        listed = found.get(key)
        if isinstance(listed, list) and len(listed) == before > max(taken):
            found[key] = [listed[number] for number in taken]
    for key in counts:
        found[key] = len(stacks[0])


def _config_of(stack: Stack, config: dict[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """Give the object of a config that says how many layers a stack has; None if it is not clear.

    That is the config itself, or else one of those in it: ``text_config`` beside ``vision_config``.
    """
    if _counts(config):
        return config
    ends = [use.layers[1] for part in recipe.parts for use in part.uses if use.layers]
    found = {
        key: inner
        for key, inner in config.items()
        if isinstance(inner, dict)
        and (counts := _counts(inner))
        and inner[counts[0]] >= max(ends, default=0)
    }
    if len(found) > 1:
        # Of a model for text and images, the layers of "language_model" are not the vision's.
        mine = {word for word in _SENSES if word in stack.prefix}
        found = {k: v for k, v in found.items() if {word for word in _SENSES if word in k} == mine}
    return next(iter(found.values())) if len(found) == 1 else None


def _counts(config: Mapping[str, Any]) -> list[str]:
    return [key for key in _LAYER_COUNTS if type(config.get(key)) is int]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
