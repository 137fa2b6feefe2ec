"""The models of a recipe, opened: every error at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from conjoin.arguments import as_mapping
from conjoin.checkpoints import (
    Checkpoint,
    HeadersOnly,
    as_checkpoint,
    innermost,
    open_headers,
    open_reference,
)
from conjoin.errors import ConjoinError
from conjoin.recipes.choosing import label_of
from conjoin.recipes.problems import Problems
from conjoin.recipes.recipe import BASE, Recipe, Source
from conjoin.recipes.tied_heads import with_heads
from conjoin.recipes.vocabulary import Matched, match_vocabulary
from conjoin.streaming import NotedCheckpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Model", "Opened", "open_sources"]

Model: TypeAlias = "Checkpoint | nn.Module | Mapping[str, Tensor]"
"""What may stand for a model of a recipe, besides its reference."""


@dataclass(frozen=True)
class Opened:
    """The models of a recipe.

    Args:
        models: in the order of `Recipe.sources`; each takes note of what is read from it.
        base: the common ancestor, if there is one.
        files: of every model, the base last: those of its tensors, then that of its order of
            units (``align:``), if it has one, and that of its tokens (``vocabulary:``).
        matched: how their rows are matched by token, if they are.
        untied: whether the result has a head of its own, though some models are tied.
        notes: what should be told.
    """

    models: tuple[NotedCheckpoint, ...]
    base: NotedCheckpoint | None
    files: tuple[tuple[Path, ...], ...]
    matched: Matched | None = None
    untied: bool = False
    notes: tuple[str, ...] = ()

    @property
    def everyone(self) -> tuple[NotedCheckpoint, ...]:
        """The models, then the base."""
        return self.models if self.base is None else (*self.models, self.base)

    @property
    def missing(self) -> tuple[str, ...]:
        """Those that have to be downloaded before a tensor can be read."""
        return tuple(m.source for m in self.everyone if isinstance(innermost(m), HeadersOnly))


def open_sources(
    recipe: Recipe,
    given: Mapping[str, Model] | None = None,
    *,
    headers_only: bool = False,
) -> Opened:
    """Open the models of a recipe; only headers are read.

    Args:
        recipe: of which.
        given: models that are open already, or modules, by their reference.
        headers_only: do not download what is on the Hub; its tensors cannot be read then.

    Raises:
        RecipeError: some cannot be opened; the message has every one, with its line.
        InputError: `given` is no mapping.
    """
    problems = Problems(str(recipe.path or ""))
    found: list[Checkpoint] = []
    files: list[tuple[Path, ...]] = []
    given = as_mapping(given, "given", "{reference: model}")
    for source in [*recipe.sources, *([] if recipe.base is None else [recipe.base])]:
        try:
            opened = _open(recipe, source, given, headers_only)
            found.append(opened)
            files.append(opened.files if source.align is None else (*opened.files, source.align))
        except ConjoinError as error:
            problems.take(source.place, error)
    problems.raise_if_any()
    numbers = [*range(len(recipe.sources)), *([] if recipe.base is None else [BASE])]
    heads = with_heads(found, [label_of(recipe, number) for number in numbers])
    found = list(heads.models)
    matched = None
    if recipe.vocabulary is not None:
        matched = match_vocabulary(recipe, found, problems)
        problems.raise_if_any()
    if matched is not None:
        found = list(matched.models)
        files = [(*own, path) for own, path in zip(files, matched.files, strict=True)]
    noted = [NotedCheckpoint(one) for one in found]
    count = len(recipe.sources)
    base = noted[count] if recipe.base is not None else None
    return Opened(tuple(noted[:count]), base, tuple(files), matched, heads.untied, heads.notes)


def _open(
    recipe: Recipe, source: Source, given: Mapping[str, Model], headers_only: bool
) -> Checkpoint:
    if source.reference in given:
        opened = as_checkpoint(given[source.reference])
    else:
        how = open_headers if headers_only else open_reference
        opened = how(source.reference, relative_to=recipe.folder, entry=source.entry)
    if source.align is None:
        return opened
    from conjoin.symmetry import Permutations  # only now: tracing comes with it

    aligned: Checkpoint = Permutations.load(source.align).apply(opened)
    return aligned
