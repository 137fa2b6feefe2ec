"""The tokens of a ``tokenizer.json``: their numbers, and how some are added."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from conjoin.recipes.beside import parsed_json

__all__ = [
    "TOKENIZER",
    "added_tokens",
    "entry_of",
    "numbers_of",
    "with_decoded_tokens",
    "with_tokens",
]

TOKENIZER = "tokenizer.json"
"""Of the library `tokenizers`, as transformers saves it beside a model."""


def numbers_of(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Give the number of every token; nothing if it cannot be told.

    >>> numbers_of({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "<s>"}]})
    {'a': 0, '<s>': 1}
    """
    model = tokenizer.get("model")
    listed = model.get("vocab") if isinstance(model, dict) else None
    found: dict[str, int] = {}
    if isinstance(listed, dict):
        found.update(listed)
    elif isinstance(listed, list):  # of Unigram: tokens and scores
        found.update(
            (str(one[0]), n) for n, one in enumerate(listed) if isinstance(one, list) and one
        )
    found.update((token, entry["id"]) for token, entry in added_tokens(tokenizer).items())
    return {token: n for token, n in found.items() if type(n) is int and n >= 0}


def added_tokens(tokenizer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give the entries of tokens that are looked for before text is divided, by token."""
    return {
        one["content"]: one
        for one in tokenizer.get("added_tokens") or []
        if isinstance(one, dict) and isinstance(one.get("content"), str) and "id" in one
    }


def entry_of(token: str, number: int, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give the entry that adds a token, with the settings that it has elsewhere."""
    entry = {"id": number, "content": token, "single_word": False, "lstrip": False}
    entry |= {"rstrip": False, "normalized": True, "special": False}
    return {**entry, **(like or {}), "id": number}


def with_tokens(content: bytes, entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Give a ``tokenizer.json`` with more tokens.

    >>> numbers_of(json.loads(with_tokens(b"{}", [entry_of("<x>", 7)])))
    {'<x>': 7}
    """
    tokenizer = parsed_json(content) or {}
    tokenizer["added_tokens"] = [*(tokenizer.get("added_tokens") or []), *entries]
    return (json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n").encode()


def with_decoded_tokens(content: bytes, entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Give a ``tokenizer_config.json`` with more tokens, if it lists the added ones."""
    config = parsed_json(content) or {}
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return content
    for entry in entries:
        listed[str(entry["id"])] = {key: value for key, value in entry.items() if key != "id"}
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
