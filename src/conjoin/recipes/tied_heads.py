"""Models whose head is their embedding, beside models that have a head of their own.

Files of tied models leave the head out, and their config says so (``tie_word_embeddings``). Beside
a model that has one in its file, such a model is seen with its embedding as its head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from conjoin.checkpoints import Checkpoint, HeadersOnly, Spec, Wrapped
from conjoin.recipes.beside import parsed_json, read_beside
from conjoin.recipes.speakers import EMBEDDINGS

__all__ = ["TIED", "Heads", "TiedHead", "with_heads"]

TIED = "tie_word_embeddings"
"""The key of a config."""
_HEADS = ("lm_head.weight", "lm_head.decoder.weight", "embed_out.weight")
"""Ends of the names of heads that may be the embedding."""


@dataclass(frozen=True)
class Heads:
    """Models that all have a head if one has.

    Args:
        models: in the order they were given in.
        untied: whether the result has a head that need not be its embedding, though some models
            are tied.
        notes: what should be told.
    """

    models: tuple[Checkpoint, ...]
    untied: bool
    notes: tuple[str, ...]


class TiedHead(Wrapped):
    """A model whose embedding is seen under the name of its head too.

    Args:
        inner: the model.
        head: the name.
        embedding: of its embedding.
    """

    def __init__(self, inner: Checkpoint, head: str, embedding: str) -> None:
        super().__init__(inner)
        self._names = {head: embedding}
        # Not as a tie: the heads that it is merged with are none.
        own = replace(inner.specs[embedding], alias_of=None)
        self._specs = {**inner.specs, head: own}

    @property
    def specs(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._specs)

    def reads_ranges(self, name: str) -> bool:
        return self.inner.reads_ranges(self._there(name))

    def byte_range(self, name: str) -> tuple[Path, int, int] | None:
        return self.inner.byte_range(self._there(name))

    def __getitem__(self, name: str) -> Tensor:
        return self.inner[self._there(name)]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.inner.read(self._there(name), start, stop)

    def blocks(self, name: str, start: int, stop: int, size: int) -> Iterator[Tensor]:
        return self.inner.blocks(self._there(name), start, stop, size)

    def sample(self, name: str, start: int, stop: int, step: int) -> Tensor:
        return self.inner.sample(self._there(name), start, stop, step)

    def _there(self, name: str) -> str:
        self.spec_of(name)
        return self._names.get(name, name)


def with_heads(models: Sequence[Checkpoint], labels: Sequence[str]) -> Heads:
    """Give models without a head of their own their embedding as one, where others have one.

    Args:
        models: opened.
        labels: what to call each, in words.
    """
    heads = dict.fromkeys(
        name
        for model in models
        for name, spec in model.specs.items()
        if name.endswith(_HEADS) and spec.alias_of is None
    )
    seen, notes, untied = list(models), [], False
    for head in heads:
        lacking = {
            number: embedding
            for number, model in enumerate(models)
            if head not in model.specs and (embedding := _embedding_of(model)) is not None
        }
        for number, embedding in lacking.items():
            seen[number] = TiedHead(seen[number], head, embedding)
            notes.append(f"{labels[number]} is tied: its {head!r} is its {embedding!r}")
        own = [model for model in models if head in model.specs]
        if lacking and not all(_says(model) is True for model in own):
            untied = True
    return Heads(tuple(seen), untied, tuple(notes))


def _embedding_of(model: Checkpoint) -> str | None:
    """The embedding of a model that may be tied; None if it is none of the kind, or not tied."""
    if not isinstance(model, HeadersOnly) and _says(model) in (False, _NO_CONFIG):
        return None
    found = [
        name
        for name, spec in model.specs.items()
        if name.endswith(EMBEDDINGS) and spec.alias_of is None
    ]
    return found[0] if len(found) == 1 else None


_NO_CONFIG = "no config"


def _says(model: Checkpoint) -> Any:
    """What the config beside a model says of its head; None if it leaves that to its kind."""
    config = parsed_json(read_beside(model, "config.json"))
    if config is None:
        return _NO_CONFIG
    inner = config.get("text_config")
    return config.get(TIED, inner.get(TIED) if isinstance(inner, dict) else None)
