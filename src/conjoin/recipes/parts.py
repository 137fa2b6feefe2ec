"""The tasks of a recipe: for every tensor of the result, what is to be done."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from conjoin.checkpoints import Checkpoint, Kind, match_names
from conjoin.errors import ConjoinError, RecipeError
from conjoin.merging import Rule, Settings, Source, Task, make_tasks
from conjoin.recipes.carrying import carrier_of
from conjoin.recipes.constants import choose_constants
from conjoin.recipes.layers import Outside
from conjoin.recipes.opening import Opened
from conjoin.recipes.problems import Place, Problems
from conjoin.recipes.recipe import BASE, Keep, KindRule, Recipe
from conjoin.recipes.slices import Slice, Table, slices_of
from conjoin.recipes.values import Value, matches
from conjoin.recipes.views import RenamedCheckpoint

__all__ = ["Built", "build_tasks"]


@dataclass(frozen=True)
class Built:
    """What the parts of a recipe come to.

    Args:
        tasks: of every tensor of the result; a source's `model` is a number in `Opened.everyone`.
        dropped: names that only some models have, left out because the recipe says so.
        notes: what should be told.
    """

    tasks: dict[str, Task]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def build_tasks(recipe: Recipe, opened: Opened) -> Built:
    """Give the tasks of a recipe whose models are open, from headers alone.

    Raises:
        RecipeError: something does not fit; the message has every problem, with its line.
    """
    problems = Problems(str(recipe.path or ""))
    tasks: dict[str, Task] = {}
    dropped: list[str] = []
    notes: list[str] = []
    slices = slices_of(recipe, opened, problems)
    for one in slices:
        left_out = _left_out(recipe, opened, one)
        dropped += left_out
        constants = _constants(recipe, opened, one)
        notes += _about_constants(one, constants)
        left_out += [name for name, chosen in constants.items() if chosen is None]
        try:
            made = _tasks_of(recipe, opened, one, left_out, constants)
        except ConjoinError as error:
            problems.take(one.part.place, error)
            continue
        tasks |= made
    if len(slices) == len(recipe.parts):  # else some names are not known
        tables = [table for one in slices for table in _tables(one)]
        # Values of a model are looked up by the names that its tensors have there.
        names = [
            *(name for table in tables for name in table),
            *(n for t in tables for n in t.values()),
        ]
        notes += _check_patterns(recipe, list(dict.fromkeys(names)), problems)
    problems.raise_if_any()
    return Built(tasks, tuple(dropped), tuple(notes))


def _tables(one: Slice) -> list[Table]:
    return [*one.tables, *([] if one.base is None else [one.base])]


def _left_out(recipe: Recipe, opened: Opened, one: Slice) -> list[str]:
    if recipe.only_some != "drop":
        return []
    kept = {name for table in _tables(one) for name in table if _kept_from(recipe, name)}
    everywhere = set.intersection(*(set(table) for table in one.tables))
    # The second name of a tie may be missing: files leave it out.
    tied = {
        name
        for use, table in zip(one.part.uses, one.tables, strict=True)
        for name in table
        if _tied_to(opened.models[use.source], table, name) in everywhere
    }
    names = dict.fromkeys(name for table in one.tables for name in table)
    return [name for name in names if name not in everywhere | kept | tied]


def _constants(recipe: Recipe, opened: Opened, one: Slice) -> dict[str, int | None]:
    """Choose constants that do not fit together; only in a recipe of mergekit's, see there."""
    if recipe.dialect != "mergekit":
        return {}
    tables = [(use.source, table) for use, table in zip(one.part.uses, one.tables, strict=True)]
    if one.base is not None and recipe.method.takes_base:
        tables.append((len(opened.models), one.base))
    kinds = _kinds(recipe, one)
    views = [RenamedCheckpoint(opened.everyone[number], t, kinds) for number, t in tables]
    carrier, _ = carrier_of(recipe, opened)
    wanted = len(opened.models) if carrier == BASE else int(carrier)
    places = [place for place, (number, _) in enumerate(tables) if number == wanted]
    found = choose_constants(views, places[0] if places else None)
    return {name: n for name, n in found.items() if _kept_from(recipe, name) is None}


def _about_constants(one: Slice, constants: Mapping[str, int | None]) -> Iterator[str]:
    """Say from where constants are taken that do not fit together."""
    for chosen in dict.fromkeys(constants.values()):
        names = [name for name, number in constants.items() if number == chosen]
        more = ", ..." if len(names) > 1 else ""
        if chosen is None:
            told = "are left out"
        elif chosen < len(one.part.uses):
            told = f"are those of model {one.part.uses[chosen].source}"
        else:
            told = "are those of the base"
        yield f"constants that do not fit together {told}: {names[0]!r}{more}"


def _tied_to(model: Checkpoint, table: Table, name: str) -> str | None:
    """The first name, in the result, of a tensor that has two."""
    first = model.specs[table[name]].alias_of
    if first is None:
        return None
    return next((here for here, there in table.items() if there == first), None)


def _kept_from(recipe: Recipe, name: str) -> tuple[int | str, Place] | None:
    for rule in recipe.keep:
        if matches(rule.pattern, name):
            return rule.source, rule.place
    return None


def _tasks_of(
    recipe: Recipe,
    opened: Opened,
    one: Slice,
    left_out: Sequence[str],
    constants: Mapping[str, int | None],
) -> dict[str, Task]:
    numbers = [use.source for use in one.part.uses]
    kinds = _kinds(recipe, one)

    def view(number: int, table: Table) -> RenamedCheckpoint:
        left = {here: there for here, there in table.items() if here not in left_out}
        return RenamedCheckpoint(opened.everyone[number], left, kinds)

    views = [view(number, table) for number, table in zip(numbers, one.tables, strict=True)]
    base = None
    chosen = {name: number for name, number in constants.items() if number is not None}
    if one.base is not None:
        # What else the base alone has is in no result.
        wanted = {name for seen in views for name in seen.specs} | chosen.keys()
        base = view(len(opened.models), {n: t for n, t in one.base.items() if n in wanted})
        numbers.append(len(opened.models))
    kept = chosen | _kept(recipe, one, views, base, numbers)

    def settings(name: str) -> Settings:
        if views[0].specs[name].kind in (Kind.COUNTER, Kind.CONSTANT):
            return Settings()  # no value is used, so a gradient need not have one here
        there = [table.get(name, name) for table in one.tables]
        return recipe.settings(one.part, name, one.places.get(name, Outside.UNKNOWN), there)

    merged = base is not None and recipe.method.takes_base
    of_base = [
        name
        for name, k in kept.items()
        if k == len(views) and not (merged and any(name in seen.specs for seen in views))
    ]
    made = make_tasks(
        [_without(of_base, seen, kinds) for seen in views],
        recipe.method,
        base=_without(of_base, base, kinds) if merged and base is not None else None,
        kept={name: k for name, k in kept.items() if name not in of_base},
        settings=settings,
        dtype=recipe.dtype,
        working=recipe.arithmetic,
    )
    if base is not None:
        made |= {name: _copied(recipe, base, len(views), name) for name in of_base}
        made = {name: made[name] for name in dict.fromkeys([*views[0].specs, *made])}
    everyone = views if base is None else [*views, base]

    def origin(source: Source) -> Source:
        found = everyone[source.model].origin(source)
        return Source(numbers[source.model], found.checkpoint, found.name)

    return {name: _resolved(task, origin) for name, task in made.items()}


def _without(
    names: Sequence[str], seen: RenamedCheckpoint, kinds: Mapping[str, Kind]
) -> RenamedCheckpoint:
    """A view without some tensors: those that a method without a base takes from the base."""
    if not names:
        return seen
    left = {here: there for here, there in seen.names.items() if here not in names}
    return RenamedCheckpoint(seen.inner, left, kinds)


def _copied(recipe: Recipe, base: RenamedCheckpoint, number: int, name: str) -> Task:
    spec = base.specs[name]
    if recipe.dtype is not None and spec.kind in (Kind.WEIGHT, Kind.STATISTIC):
        spec = dataclasses.replace(spec, stored=recipe.dtype)
    return Task(spec, Rule.COPY, (Source(number, base, name),))


def _resolved(task: Task, origin: Callable[[Source], Source]) -> Task:
    return dataclasses.replace(
        task,
        sources=tuple(map(origin, task.sources)),
        base=None if task.base is None else origin(task.base),
        twins=tuple(map(origin, task.twins)),
    )


def _kinds(recipe: Recipe, one: Slice) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for rule in recipe.kinds:
        for table in _tables(one):
            for name in table:
                if matches(rule.pattern, name):
                    found.setdefault(name, rule.kind)
    return found


def _kept(
    recipe: Recipe,
    one: Slice,
    views: Sequence[RenamedCheckpoint],
    base: RenamedCheckpoint | None,
    numbers: Sequence[int],
) -> dict[str, int]:
    """Name -> position among the models of this slice, the base last."""
    kept: dict[str, int] = {}
    for name in dict.fromkeys(name for table in _tables(one) for name in table):
        found = _kept_from(recipe, name)
        if found is None:
            continue
        source, place = found
        wanted = len(views) if source == BASE else _position(numbers, source)
        chosen = base if source == BASE else None if wanted is None else views[wanted]
        if wanted is not None and chosen is not None and name in chosen.specs:
            kept[name] = wanted
        elif any(name in seen.specs for seen in views):
            raise _nothing_to_keep(name, place, source)
    if recipe.only_some == "keep":
        for name in dict.fromkeys(name for seen in views for name in seen.specs):
            having = [k for k, seen in enumerate(views) if name in seen.specs]
            tied = views[having[0]].specs[name].alias_of
            # The second name of a tie may be missing: files leave it out.
            if len(having) < len(views) and not (tied and all(tied in seen for seen in views)):
                kept.setdefault(name, having[0])
    return kept


def _position(numbers: Sequence[int], source: int | str) -> int | None:
    return numbers.index(source) if source in numbers else None


def _nothing_to_keep(name: str, place: Place, source: int | str) -> RecipeError:
    which = "the base" if source == BASE else f"model {source}"
    return RecipeError(
        f"{place}: {name!r} is to be kept from {which}, which does not have it here; take it from "
        "another, or narrow the pattern"
    )


def _check_patterns(recipe: Recipe, names: Sequence[str], problems: Problems) -> list[str]:
    """A pattern that matches nothing is most likely mistyped; mergekit lets it pass."""
    rules: list[tuple[str, Place]] = []
    of_names: list[Keep | KindRule] = [*recipe.keep, *recipe.kinds]
    for rule in of_names:
        if not any(matches(rule.pattern, name) for name in names):
            problems.add(rule.place, _no_match(rule.pattern, names))
    tables: list[Mapping[str, Value]] = [recipe.values]
    for part in recipe.parts:
        tables += [part.values, *(use.values for use in part.uses)]
    for table in tables:
        for value in table.values():
            rules += [(one.pattern, one.place) for one in value.rules]
    notes = []
    for pattern, place in rules:
        if pattern == "*" or any(matches(pattern, name) for name in names):
            continue
        if recipe.dialect == "mergekit":
            notes.append(f"{place}: the filter {pattern.strip('*')!r} matches no tensor")
        else:
            problems.add(place, _no_match(pattern, names))
    return notes


def _no_match(pattern: str, names: Sequence[str]) -> str:
    try:
        match_names(pattern, names)
    except ConjoinError as error:
        return str(error)
    return f"the pattern {pattern!r} matches no tensor"
