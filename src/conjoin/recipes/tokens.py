"""The tokens of a ``tokenizer.json``: their numbers, and how some are added."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conjoin.recipes.beside import parsed_json

__all__ = [
    "TOKENIZER",
    "added_tokens",
    "count_listed",
    "entry_of",
    "is_text",
    "next_number",
    "numbers_of",
    "what_is_wrong",
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
    found = {token: n for token, n in _listed(tokenizer) if _is_number(n)}
    added = added_tokens(tokenizer).items()
    return found | {token: entry["id"] for token, entry in added if _is_number(entry["id"])}


def added_tokens(tokenizer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give the entries of tokens that are looked for before text is divided, by token."""
    entries = tokenizer.get("added_tokens")
    return {
        one["content"]: one
        for one in (entries if isinstance(entries, list) else [])
        if isinstance(one, dict) and isinstance(one.get("content"), str) and "id" in one
    }


def what_is_wrong(tokenizer: Mapping[str, Any]) -> str | None:
    """Say why the numbers of tokens cannot be relied on, in words; None if they can.

    The library gives a token that was added the next free number, whatever stands in the file.
    """
    listed, entries = list(_listed(tokenizer)), tokenizer.get("added_tokens") or []
    if not listed:
        return "its model has no vocabulary"
    if not isinstance(entries, list) or len(added_tokens(tokenizer)) < len(entries):
        return "its added_tokens are no list of different tokens with numbers"
    for token, number in [*listed, *((one["content"], one["id"]) for one in entries)]:
        if not is_text(token) or not _is_number(number):
            return f"it has {token!r:.60} with the number {number!r:.60}"
    numbers = dict(listed)
    taken = {number: token for token, number in listed}
    if len(taken) < len(numbers):
        twice = next(token for token, number in listed if taken[number] != token)
        return f"{twice!r} has the number of {taken[numbers[twice]]!r}"
    added: list[int] = []
    for one in entries:
        expected = numbers.get(one["content"], next_number(len(listed), added))
        if one["id"] != expected:
            return f"{one['content']!r} has the number {one['id']} there, and is read as {expected}"
        if taken.setdefault(expected, one["content"]) != one["content"]:
            return f"{one['content']!r} has the number of {taken[expected]!r}"
        added.append(expected)
    return None


def next_number(listed: int, added: Iterable[int]) -> int:
    """Give the number that the library `tokenizers` gives to the next token that is added.

    Args:
        listed: how many tokens the vocabulary of the tokenizer's model has.
        added: numbers of those that were added before.

    >>> next_number(10, []), next_number(10, [3, 12])
    (10, 13)
    """
    return max(listed, 1 + max(added, default=-1))


def count_listed(tokenizer: Mapping[str, Any]) -> int:
    """Count the tokens of the vocabulary of a tokenizer's model."""
    return len(list(_listed(tokenizer)))


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


def _listed(tokenizer: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Give the tokens of the vocabulary of a tokenizer's model."""
    model = tokenizer.get("model")
    listed = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(listed, dict):
        return listed.items()
    if isinstance(listed, list):  # of Unigram: tokens and scores
        return [(str(one[0]), n) for n, one in enumerate(listed) if isinstance(one, list) and one]
    return []


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def is_text(token: str) -> bool:
    """Whether a file can hold it, and it is not empty."""
    if not token:
        return False
    try:
        token.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True
