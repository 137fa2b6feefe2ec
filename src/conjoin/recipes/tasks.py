"""Methods that give one result for each task: one recipe becomes several, one for each model."""

import dataclasses
import re

from conjoin.recipes.recipe import Recipe
from conjoin.recipes.values import Value

__all__ = ["for_task", "task_of", "tasks_of"]

_TASK = "task"
"""The parameter of such a method that says whose result is wanted."""


def tasks_of(recipe: Recipe) -> dict[str, Recipe]:
    """Give a recipe for each result, by its name: that of the model whose task it is for.

    Empty if the method has one result for all, or the recipe says itself whose it wants.
    """
    if not recipe.method.per_task or _TASK in recipe.values:
        return {}
    names = [source.name or str(k) for k, source in enumerate(recipe.sources)]
    safe = [re.sub(r"[^\w.-]+", "-", name).strip(".") for name in names]
    unique = len(set(safe)) == len(safe) and all(safe)
    titles = safe if unique else [str(k) for k in range(len(names))]
    return {title: for_task(recipe, k) for k, title in enumerate(titles)}


def for_task(recipe: Recipe, task: int) -> Recipe:
    """Give the recipe for one task, by the number of its model."""
    return dataclasses.replace(recipe, values={**recipe.values, _TASK: Value.of(task)})


def task_of(recipe: Recipe) -> int | None:
    """Give the task that a recipe is for; None if its method has one result for all."""
    if not recipe.method.per_task or _TASK not in recipe.values:
        return None
    found = recipe.values[_TASK].constant
    return int(found) if found is not None else None
