"""Whether tensors of one name mean the same: what names, configs and tokenizers say of it.

Headers fit together where models are adapters, quantized, or have other numbers of heads. What
would be wrong is an error; what may be wanted, such as another base of rotary positions, is told.
"""

import re
from collections.abc import Mapping
from typing import Any

from conjoin.checkpoints import Checkpoint
from conjoin.errors import RecipeError
from conjoin.merging import Merged, Rule
from conjoin.recipes.beside import parsed_json, read_beside
from conjoin.recipes.carrying import carrier_of
from conjoin.recipes.choosing import label_of
from conjoin.recipes.opening import Opened
from conjoin.recipes.recipe import BASE, Recipe
from conjoin.recipes.tokens import TOKENIZER, numbers_of

__all__ = ["check_agreement"]

_FACTORS = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w\d_[ab])\b")
_HEADS = (
    *("num_attention_heads", "num_key_value_heads", "head_dim", "n_head", "n_heads", "num_heads"),
    *("encoder_attention_heads", "decoder_attention_heads"),
)
# What says nothing of what the tensors mean, or shows in their shapes.
_ASIDE = re.compile(
    r"(^_|transformers_version|torch_dtype|dtype|use_cache|architectures|dropout|droprate|pdrop"
    r"|label|problem_type|vocab_size|hidden_layers|n_layer|num_layers|depth|layer_types|auto_map"
    r"|quantization_config|initializer|gradient_checkpointing)"
)
_SHOWN = 5


def check_agreement(recipe: Recipe, opened: Opened, merged: Merged) -> list[str]:
    """Say in what the models are not of one kind, though their tensors fit together.

    Raises:
        RecipeError: factors of adapters, quantized weights, or weights of other numbers of heads
            would be merged.
    """
    several = [
        name
        for name, task in merged.tasks.items()
        if task.rule is Rule.METHOD and len(task.inputs) > 1
    ]
    if not several:
        return []  # each tensor is of one model
    factor = next((name for name in several if _FACTORS.search(name)), None)
    if factor is not None:
        raise RecipeError(
            f"{factor!r} is a factor of an adapter, and the mean of factors is not that of what "
            "adapters add. Name the model that each adapter is for, before it: BASE+ADAPTER"
        )
    number, carrier = carrier_of(recipe, opened)
    everyone: dict[int | str, Checkpoint] = {**dict(enumerate(opened.models))}
    if opened.base is not None:
        everyone[BASE] = opened.base
    configs = {
        which: parsed_json(read_beside(one, "config.json")) or {} for which, one in everyone.items()
    }
    for which, config in configs.items():
        if config.get("quantization_config"):
            raise RecipeError(
                f"{label_of(recipe, which)} is quantized, as its config.json says, and numbers and "
                "scales would be merged apart from each other; dequantize the models first"
            )
    first = configs.get(number, {})
    if carrier is None or not first:
        return []
    notes = []
    for which, config in configs.items():
        if which == number or not config:
            continue
        wrong, other = _differences(first, config)
        label, mine = label_of(recipe, which), label_of(recipe, number)
        if wrong:
            raise RecipeError(
                f"{label} has weights of the shapes of {mine} that mean something else, as their "
                f"config.json say: {'; '.join(wrong)}"
            )
        if other:
            more = f", and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
            notes.append(
                f"config.json of {label} differs from that of {mine}, which goes along: "
                + "; ".join(other[:_SHOWN])
                + more
            )
        moved = _moved_tokens(everyone[number], everyone[which])
        if moved and opened.matched is None:
            notes.append(
                f"the tokenizer of {label} has other numbers for {len(moved)} tokens than that of "
                f"{mine}, which goes along: {', '.join(map(repr, moved[:_SHOWN]))}; rows of "
                "embeddings are merged by their number"
            )
    return notes


def _differences(
    first: Mapping[str, Any], other: Mapping[str, Any], within: str = ""
) -> tuple[list[str], list[str]]:
    """Give what makes weights mean something else, and what else differs."""
    wrong, rest = [], []
    kinds = first.get("model_type"), other.get("model_type")
    if kinds[0] != kinds[1]:
        return [], [f"{within}model_type is {kinds[1]!r}, and {kinds[0]!r} there"]
    for key in dict.fromkeys([*first, *other]):
        one, two = first.get(key), other.get(key)
        if one == two or _ASIDE.search(key):
            continue
        if isinstance(one, dict) and isinstance(two, dict):
            inner = _differences(one, two, f"{within}{key}.")
            wrong += inner[0]
            rest += inner[1]
            continue
        text = f"{within}{key} is {two!r:.60}, and {one!r:.60} there"
        both = one is not None and two is not None
        (wrong if key in _HEADS and both else rest).append(text)
    return wrong, rest


def _moved_tokens(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Give tokens that two tokenizers number differently, or that one of them lacks."""
    contents = [read_beside(one, TOKENIZER) for one in (first, other)]
    if contents[0] == contents[1]:
        return []  # parsing one takes a tenth of a second or more
    numbers = [numbers_of(parsed_json(content) or {}) for content in contents]
    if not all(numbers):
        return []
    return [
        token
        for token in dict.fromkeys([*numbers[0], *numbers[1]])
        if numbers[0].get(token) != numbers[1].get(token)
    ]
