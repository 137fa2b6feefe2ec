"""What has been read of a recipe -> `Recipe`, with the checks that concern more than one key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conjoin.checkpoints import Kind
from conjoin.dtypes import DTYPES, DType
from conjoin.errors import MethodError
from conjoin.methods import Method, Need
from conjoin.recipes.choosing import choose, default_name, read_vocabulary
from conjoin.recipes.forms import Found
from conjoin.recipes.layers import Outside
from conjoin.recipes.nodes import TableNode
from conjoin.recipes.problems import Place, Problems
from conjoin.recipes.recipe import BASE, Keep, KindRule, Output, Part, Recipe, Source, Use
from conjoin.recipes.values import Value

__all__ = ["build", "check_method", "expand_path", "name_sources", "of_both"]

_NOTHING: Found[Any] = Found(None, Place())
_MODEL_KEYS = frozenset({"model", "name", "align", "entry", "layers"})

Read = Mapping[str, Found[Any]]


@dataclass
class _Sources:
    """The models of the recipe, each once where it occurs in several slices."""

    shared: bool
    found: list[Source] = field(default_factory=list)

    def number(self, source: Source, problems: Problems) -> int:
        if self.shared:
            for number, other in enumerate(self.found):
                if other.canonical() == source.canonical():
                    if source.name not in (None, other.name):
                        if other.name is not None:
                            problems.add(
                                source.place,
                                f"{source.reference!r} is called {source.name!r} here, and "
                                f"{other.name!r} at {other.place}; it is one model",
                            )
                        self.found[number] = source
                    return number
        self.found.append(source)
        return len(self.found) - 1


def build(
    read: Read, method: Method, root: TableNode, folder: Path, path: Path | None, problems: Problems
) -> Recipe:
    """Make the recipe, noting what does not fit together.

    Args:
        read: what the form of a recipe has given.
        method: the method.
        root: the whole recipe.
        folder: what relative paths start from.
        path: of the file.
        problems: where to note what is wrong; the recipe is of use only if nothing was.
    """
    clean = len(problems) == 0
    stacked = "slices" in root.entries
    sources = _Sources(stacked)
    if ("models" in root.entries) == stacked:
        found = "both" if stacked else "neither"
        problems.add(root.place, f"expected one of `models` and `slices`, found {found}")
    base = None
    if "base" in read:
        base = _source(_as_table(read["base"]), read["base"].place, folder, problems)
    parts = _parts(read, stacked, sources, folder, problems)
    named = name_sources(sources.found, base, problems)
    values = _values(read.get("parameters", _NOTHING).value or {})
    both = of_both(read, named, base, problems)
    recipe = Recipe(
        method=method,
        sources=named,
        parts=parts,
        stacked=stacked,
        base=base,
        values=values,
        arithmetic=_dtype(read.get("arithmetic", _NOTHING).value),
        dtype=_dtype(read.get("dtype", _NOTHING).value),
        vocabulary=read_vocabulary(read.get("vocabulary"), named, base, problems),
        path=path,
        folder=folder,
        places={key: found.place for key, found in read.items()},
        **both,
    )
    if clean:  # what could not be read would be missed here
        check_method(recipe, root.place, problems)
    return recipe


def of_both(
    read: Read, sources: Sequence[Source], base: Source | None, problems: Problems
) -> dict[str, Any]:
    """Give the arguments of `Recipe` that may be said in mergekit's recipes too (`OF_BOTH`)."""
    return {
        "keep": _keep(read, sources, base, problems),
        "kinds": _kinds(read),
        "only_some": read["only_some"].value if "only_some" in read else "refuse",
        "layers": read.get("layers", _NOTHING).value,
        "nonfinite": read["nonfinite"].value if "nonfinite" in read else "refuse",
        "seed": read["seed"].value if "seed" in read else 0,
        "output": _output(read, sources, base, problems),
    }


def _parts(
    read: Read, stacked: bool, sources: _Sources, folder: Path, problems: Problems
) -> tuple[Part, ...]:
    if not stacked:
        listed = read.get("models", _NOTHING)
        uses = [_use(item, sources, folder, problems) for item in listed.value or []]
        return (Part(tuple(uses), {}, None, listed.place),)
    parts = []
    for found in read.get("slices", Found([], Place())).value:
        own: Read = found.value
        uses = [
            _use(item, sources, folder, problems)
            for item in own.get("models", _NOTHING).value or []
        ]
        values = _values(own.get("parameters", _NOTHING).value or {})
        base_layers = own.get("base_layers", _NOTHING).value
        parts.append(Part(tuple(uses), values, base_layers, found.place))
    return tuple(parts)


def _use(item: Found[Any], sources: _Sources, folder: Path, problems: Problems) -> Use:
    table = _as_table(item)
    number = sources.number(_source(table, item.place, folder, problems), problems)
    layers = table.get("layers", _NOTHING).value
    values = _values({key: found for key, found in table.items() if key not in _MODEL_KEYS})
    return Use(number, layers, values, item.place)


def _as_table(item: Found[Any]) -> Read:
    """A model in its long form: ``../a`` is ``{model: ../a}``."""
    if isinstance(item.value, str):
        return {"model": Found(item.value, item.place)}
    table: Read = item.value
    return table


def _source(table: Read, place: Place, folder: Path, problems: Problems) -> Source:
    align = table.get("align", _NOTHING)
    name = table.get("name", _NOTHING)
    if name.value == BASE:
        problems.add(name.place, "no model can be called 'base'; that means the base of the recipe")
    return Source(
        reference=table.get("model", Found("", place)).value,
        name=name.value,
        align=expand_path(align.value, folder, align.place, problems) if align.value else None,
        entry=table.get("entry", _NOTHING).value,
        place=place,
    )


def _values(table: Mapping[str, Found[Any]]) -> dict[str, Value]:
    return {key: found.value for key, found in table.items()}


def expand_path(text: str, folder: Path, place: Place, problems: Problems) -> Path:
    """Fill in ``$X``, ``${X}`` and ``~``; relative paths start at the recipe's folder."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            problems.add(place, f"the environment variable {name!r} in {text!r} is not set")
        return os.environ.get(name, "")

    filled = re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text)
    return (folder / Path(filled).expanduser()).absolute()


def name_sources(
    sources: Sequence[Source], base: Source | None, problems: Problems
) -> tuple[Source, ...]:
    """Give every model that has no name the default one, if no other model has that."""
    given = [source.name for source in sources if source.name is not None]
    for name in dict.fromkeys(given):
        called = [source for source in sources if source.name == name]
        if len(called) > 1:
            first, second = called[:2]
            problems.add(second.place, f"{name!r} already is the name of the model {first.place}")
    defaults = [default_name(source.reference) for source in sources]
    taken = {*given, *([] if base is None else [BASE])}
    return tuple(
        replace(source, name=name)
        if source.name is None and defaults.count(name) == 1 and name not in taken
        else source
        for source, name in zip(sources, defaults, strict=True)
    )


def _keep(
    read: Read, sources: Sequence[Source], base: Source | None, problems: Problems
) -> tuple[Keep, ...]:
    table: Read = read.get("keep", _NOTHING).value or {}
    return tuple(
        Keep(pattern, choose(found.value, sources, base, found.place, problems), found.place)
        for pattern, found in table.items()
    )


def _kinds(read: Read) -> tuple[KindRule, ...]:
    table: Read = read.get("kinds", _NOTHING).value or {}
    return tuple(
        KindRule(pattern, Kind(found.value), found.place) for pattern, found in table.items()
    )


def _output(
    read: Read, sources: Sequence[Source], base: Source | None, problems: Problems
) -> Output:
    found = read.get("output", _NOTHING)
    table: Read = found.value or {}
    files = table.get("files_from")
    metadata: Read = table.get("metadata", _NOTHING).value or {}
    return Output(
        shard_size=table.get("shard_size", _NOTHING).value,
        format=table.get("format", Found("safetensors", found.place)).value,
        files_from=None
        if files is None
        else choose(files.value, sources, base, files.place, problems),
        metadata={key: item.value for key, item in metadata.items()},
        chat_template=table.get("chat_template", _NOTHING).value,
        place=found.place,
    )


def _dtype(name: str | None) -> DType | None:
    return None if name is None else DTYPES[name]


def check_method(recipe: Recipe, root: Place, problems: Problems) -> None:
    """Note what the method says against base, weights, parameters and number of models."""
    method, base = recipe.method, recipe.base
    key = "base_model" if recipe.dialect == "mergekit" else "base"
    if base is None and Need.BASE in method.needs:
        problems.add(root, f"{method.name} merges changes from a common base; it needs `{key}:`")
    if base is not None and not method.takes_base and not _chosen(recipe):
        problems.add(base.place, f"{method.name} uses no base; leave out `{key}:`")
    for part in recipe.parts:
        before = len(problems)
        if recipe.stacked:
            _check_layers(recipe, part, problems)
        if method.models not in (None, len(part.uses)):
            problems.add(
                part.place,
                f"{method.name} merges exactly {method.models} "
                f"model{'' if method.models == 1 else 's'}, and here are {len(part.uses)}",
            )
        _all_weighted(part, recipe.values, problems)
        if len(problems) == before:
            _rehearse(recipe, part, problems)


def _chosen(recipe: Recipe) -> bool:
    """Whether the base serves something else: tensors to keep, files to carry along."""
    files = recipe.output.files_from == BASE or recipe.vocabulary is not None
    return files or any(rule.source == BASE for rule in recipe.keep)


def _check_layers(recipe: Recipe, part: Part, problems: Problems) -> None:
    ranges = [use.layers for use in part.uses]
    if recipe.method.takes_base and recipe.base is not None:
        ranges.append(part.base_layers)
        if part.base_layers is None and any(found is not None for found in ranges):
            problems.add(
                part.place,
                "the slice has to say which layers of the base belong to it: base_layers",
            )
    elif part.base_layers is not None:
        problems.add(part.place, f"base_layers is given, but {recipe.method.name} has no base here")
    lengths = {end - first for first, end in (found for found in ranges if found is not None)}
    if len(lengths) > 1:
        shown = ", ".join(str(list(found)) for found in ranges if found is not None)
        problems.add(part.place, f"the models of a slice need equally many layers, found {shown}")


def _all_weighted(part: Part, values: Mapping[str, Value], problems: Problems) -> None:
    if "weight" in values or "weight" in part.values:
        return
    without = [use for use in part.uses if "weight" not in use.values]
    if len(without) < len(part.uses):
        for use in without:
            problems.add(use.place, "this model has no weight, but others have; give every one its")


def _rehearse(recipe: Recipe, part: Part, problems: Problems) -> None:
    """Let the method look at its settings, if these are the same for all tensors."""
    tables = [recipe.values, part.values, *(use.values for use in part.uses)]
    if not part.uses or any(v.constant is None for table in tables for v in table.values()):
        return
    settings = recipe.settings(part, "", Outside.UNKNOWN)
    count = len(part.uses)
    try:
        recipe.method.check(
            settings.parameters,
            base=Need.BASE in recipe.method.needs,
            weights=settings.weights is not None,
            models=count,
        )
        recipe.method.rehearse(settings.parameters, models=count, weights=settings.weights)
    except MethodError as error:
        problems.add(part.place, str(error))
