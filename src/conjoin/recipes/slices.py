"""Parts of a recipe under the names that their tensors have in the result.

Without slices that is the identity. With slices, layers are counted anew: layer k of slice s is
layer (length of all slices before) + k of the result. What stands before the layers comes from
all models of the first slice, what stands after them from all models of the last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from conjoin.checkpoints import Checkpoint
from conjoin.errors import ConjoinError, RecipeError
from conjoin.recipes.layers import InLayer, Layers, Outside, Stack, find_layers
from conjoin.recipes.opening import Opened
from conjoin.recipes.problems import Place, Problems
from conjoin.recipes.recipe import BASE, Part, Recipe
from conjoin.recipes.values import matches

__all__ = ["Ends", "Slice", "Table", "slices_of"]

Table = Mapping[str, str]
"""Name in the result -> name in the model."""


@dataclass(frozen=True)
class Slice:
    """A part of a recipe and its names.

    Args:
        part: the part.
        tables: of each of its models.
        base: of the base, if there is one.
        places: where among the layers each tensor stands; a gradient runs over the slice.
    """

    part: Part
    tables: tuple[Table, ...]
    base: Table | None
    places: Mapping[str, InLayer | Outside]


class Ends(NamedTuple):
    """Where a slice stands.

    Args:
        first: whether it is the first.
        last: whether it is the last.
        same: whether all slices are of the same models.
        new: numbers of the models that no earlier slice is of.
    """

    first: bool
    last: bool
    same: bool
    new: frozenset[int]


def slices_of(recipe: Recipe, opened: Opened, problems: Problems) -> list[Slice]:
    """Give the parts of a recipe; what cannot be found is added to the problems."""
    if not recipe.stacked:
        return [_whole(recipe, part, opened, problems) for part in recipe.parts]
    found, offset = [], 0
    # Where all slices are of the same models, it makes no difference which one has a tensor.
    same = len({tuple(use.source for use in part.uses) for part in recipe.parts}) == 1
    for number, part in enumerate(recipe.parts):
        earlier = {use.source for before in recipe.parts[:number] for use in before.uses}
        new = frozenset({use.source for use in part.uses} - earlier)
        ends = Ends(number == 0, number == len(recipe.parts) - 1, same, new)
        try:
            one, length = _stacked(recipe, part, opened, offset, ends)
        except ConjoinError as error:
            problems.take(part.place, error)
            continue
        found.append(one)
        offset += length
    return found


def _whole(recipe: Recipe, part: Part, opened: Opened, problems: Problems) -> Slice:
    models = [opened.models[use.source] for use in part.uses]
    names = list(dict.fromkeys(name for model in models for name in model.specs))
    try:
        layers = find_layers(names, recipe.layers)
    except ConjoinError as error:
        problems.take(recipe.places.get("layers", part.place), error)
        layers = find_layers(names)
    tables = tuple({name: name for name in model.specs} for model in models)
    base = None if opened.base is None else {name: name for name in opened.base.specs}
    return Slice(part, tables, base, {name: layers.place(name) for name in names})


def _stacked(
    recipe: Recipe, part: Part, opened: Opened, offset: int, ends: Ends
) -> tuple[Slice, int]:
    tables, places, length = [], dict[str, InLayer | Outside](), None
    for use in part.uses:
        model = opened.models[use.source]
        table, where, count = _taken(recipe, model, use.layers, use.place, offset, ends)
        if length is not None and count != length:
            raise RecipeError(
                f"{use.place}: {count} layers would be merged with {length}; all models of a "
                "slice give equally many"
            )
        length = count
        tables.append(table)
        places = {**where, **places}
    base = None
    if opened.base is not None and _has_part(recipe):
        layers = part.base_layers or _layers_of_base(recipe, part)
        base, _, count = _taken(recipe, opened.base, layers, part.place, offset, ends)
        if count != length:
            raise RecipeError(
                f"{part.place}: the base gives {count} layers to a slice of {length}; say which of "
                "its layers belong here"
            )
    assert length is not None  # a part has models
    return Slice(part, tuple(tables), base, places), length


def _layers_of_base(recipe: Recipe, part: Part) -> tuple[int, int] | None:
    """The layers of a base that is one of the models of a slice, too; else those of the first."""
    assert recipe.base is not None
    own = [
        use for use in part.uses if recipe.sources[use.source].reference == recipe.base.reference
    ]
    return (own or part.uses)[0].layers


def _has_part(recipe: Recipe) -> bool:
    """Whether tensors of the base are used; it may be there for its config alone."""
    kept = any(rule.source == BASE for rule in recipe.keep)
    return kept or recipe.method.takes_base


def _taken(
    recipe: Recipe,
    model: Checkpoint,
    wanted: tuple[int, int] | None,
    place: Place,
    offset: int,
    ends: Ends,
) -> tuple[Table, dict[str, InLayer | Outside], int]:
    """What a slice takes of a model: its names, their places, and how many layers."""
    layers = find_layers(model.specs, recipe.layers)
    stack = _only_stack(layers, model, place)
    begin, end = wanted or (0, len(stack))
    if not 0 <= begin < end <= len(stack):
        raise RecipeError(
            f"{place}: the layers [{begin}, {end}) are not within the {len(stack)} layers of "
            f"{model.source}"
        )
    ranks = {number: k for k, number in enumerate(stack.numbers[begin:end])}
    table: dict[str, str] = {}
    places: dict[str, InLayer | Outside] = {}
    for name in model.specs:
        where = layers.place(name)
        if isinstance(where, InLayer):
            if where.number in ranks:
                rank = ranks[where.number]
                here = layers.rename(name, offset + rank)
                table[here], places[here] = name, InLayer(stack, rank, len(ranks))
        elif _belongs(recipe, where, ends, name, model, place):
            table[name], places[name] = name, where
    return table, places, len(ranks)


def _only_stack(layers: Layers, model: Checkpoint, place: Place) -> Stack:
    if len(layers.stacks) == 1:
        return layers.stacks[0]
    found = ", ".join(stack.pattern for stack in layers.stacks) or "none"
    raise RecipeError(
        f"{place}: slices need one stack of layers; in {model.source} there are: {found}. Say "
        'which is meant: layers: "PATTERN.*"'
    )


def _belongs(
    recipe: Recipe, where: Outside, ends: Ends, name: str, model: Checkpoint, place: Place
) -> bool:
    if where is Outside.AFTER:
        return ends.last
    if where is Outside.BEFORE or ends.same or (ends.first and ends.last):
        return ends.first
    for rule in recipe.keep:
        if matches(rule.pattern, name):  # the recipe says whose it is
            return ends.first if rule.source == BASE else rule.source in ends.new
    raise RecipeError(
        f"{place}: {name!r} of {model.source} is in no layer, and its name does not say whether it "
        "stands before or after them, so no slice can be said to have it; say whose it is: "
        f'keep: {{"{name}": MODEL}}, or a pattern'
    )
