"""Models whose head is their embedding, beside models that have a head of their own.

Files of tied models leave the head out, and their config says so (``tie_word_embeddings``). Beside
a model that has one in its file, such a model is seen with its embedding as its head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conjoin.checkpoints import Checkpoint, FileRange, HeadersOnly, Spec, Wrapped, innermost
from conjoin.recipes.beside import parsed_json, read_beside
from conjoin.recipes.speakers import EMBEDDINGS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TIED", "Heads", "TiedHead", "with_heads"]

TIED = "tie_word_embeddings"
"""The key of a config."""
_HEADS = ("lm_head.weight", "lm_head.decoder.weight", "embed_out.weight")
"""Ends of the names of heads that may be the embedding."""
_SCALED = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "pix2struct")
"""Kinds of models that scale what a tied head reads: their embedding is no head of others."""


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

    def in_file(self, name: str) -> FileRange | None:
        return self.inner.in_file(self._there(name))

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
    seen, notes, tied = list(models), list[str](), False
    for head in heads:
        for number, model in enumerate(models):
            embedding = _tied_to(model, head)
            if embedding is not None:
                seen[number], tied = TiedHead(seen[number], head, embedding), True
                notes.append(f"{labels[number]} is tied: its {head!r} is its {embedding!r}")
    own = [
        model
        for model in models
        if any(h in model.specs and model.specs[h].alias_of is None for h in heads)
    ]
    ties = tied or any(_says(model) is True for model in own)
    apart = any(_says(model) is not True or _is_adapted(model) for model in own)
    return Heads(tuple(seen), bool(heads) and ties and apart, tuple(notes))


def _tied_to(model: Checkpoint, head: str) -> str | None:
    """The embedding that a model has in the place of a head; None if it has one, or is not tied."""
    if head in model.specs:
        # Of torch files, which have a tensor under both names.
        return None if _says(model) is _NO_CONFIG else model.specs[head].alias_of
    if isinstance(innermost(model), HeadersOnly):
        return _embedding_of(model)
    if _says(model) in (False, _NO_CONFIG) or _config(model).get("model_type") in _SCALED:
        return None
    return _embedding_of(model)


def _embedding_of(model: Checkpoint) -> str | None:
    found = [
        name
        for name, spec in model.specs.items()
        if name.endswith(EMBEDDINGS) and spec.alias_of is None
    ]
    return found[0] if len(found) == 1 else None


def _is_adapted(model: Checkpoint) -> bool:
    """Whether an adapter may have given a model a head of its own."""
    return any(path.name == "adapter_config.json" for path in model.files)


_NO_CONFIG = "no config"


def _says(model: Checkpoint) -> Any:
    """What the config beside a model says of its head; None if it leaves that to its kind."""
    config = _config(model)
    if not config:
        return _NO_CONFIG if parsed_json(read_beside(model, "config.json")) is None else None
    inner = config.get("text_config")
    return config.get(TIED, inner.get(TIED) if isinstance(inner, dict) else None)


def _config(model: Checkpoint) -> Mapping[str, Any]:
    return parsed_json(read_beside(model, "config.json")) or {}
