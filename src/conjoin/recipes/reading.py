"""A recipe from a file, or from Python's own types. Nothing is opened but the recipe."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from conjoin.methods import METHODS
from conjoin.recipes.building import build
from conjoin.recipes.forms import MISSING
from conjoin.recipes.mergekit import build_mergekit
from conjoin.recipes.mergekit_files import is_mergekit, not_a_merge
from conjoin.recipes.native import recipe_form
from conjoin.recipes.nodes import Node, ScalarNode, TableNode, describe, from_python, plain
from conjoin.recipes.problems import Problems
from conjoin.recipes.recipe import Recipe
from conjoin.recipes.yaml_nodes import parse_yaml, read_text

__all__ = ["read_recipe", "recipe_from", "recipe_from_text"]


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    r"""Read a recipe from a YAML file; mergekit's files too, see `conjoin.recipes.mergekit`.

    Relative paths in it start at the file's folder.

    Raises:
        RecipeError: something in it cannot be used; the message has every problem, with its line.

    >>> import tempfile
    >>> from conjoin.errors import RecipeError
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "recipe.yml")
    ...     _ = path.write_text("method: linear\nmodels: [{model: ../a, wieght: 1}]\n")
    ...     try: read_recipe(path)
    ...     except RecipeError as error: print(str(error).replace(folder, ""))
    /recipe.yml:2: unknown key 'wieght'; did you mean 'weight'? Allowed here: model, align, ...
    """
    file = Path(path)
    return recipe_from_text(read_text(file), folder=file.parent, path=file)


def recipe_from_text(
    text: str, *, folder: str | os.PathLike[str], path: Path | None = None
) -> Recipe:
    """Read a recipe from YAML; see `read_recipe`.

    Args:
        text: the YAML.
        folder: what relative paths start from.
        path: of the file that it was read from, for messages.

    Raises:
        RecipeError: something in it cannot be used; the message has every problem, with its line.
    """
    source = "" if path is None else str(path)
    problems = Problems(source)
    root = parse_yaml(text, source, problems)
    return dataclasses.replace(_recipe(root, Path(folder), path, problems), text=text)


def recipe_from(
    mapping: Mapping[str, Any], *, folder: str | os.PathLike[str] | None = None
) -> Recipe:
    """Make a recipe of what would stand in a file, with the same checks.

    Args:
        mapping: as YAML's tables, lists and values would be read.
        folder: what relative paths start from; by default the current folder.

    Raises:
        RecipeError: something in it cannot be used; the message has every problem.

    >>> recipe = recipe_from({"method": "mean", "models": ["../a", "../b"]})
    >>> [source.name for source in recipe.sources]
    ['a', 'b']
    """
    problems = Problems("")
    root = from_python(mapping, problems)
    start = Path.cwd() if folder is None else Path(folder)
    text = _as_yaml(root)
    return dataclasses.replace(_recipe(root, start, None, problems), text=text)


def _as_yaml(root: Node) -> str:
    """Write a tree as YAML that reads as the same tree."""
    text = yaml.safe_dump(plain(root), sort_keys=False, allow_unicode=True)
    # YAML 1.1, which is written here, leaves texts without quotes that are numbers in 1.2: 1e3.
    # JSON is YAML too, and quotes every text.
    same = repr(plain(parse_yaml(text, "", Problems("")))) == repr(plain(root))
    return text if same else json.dumps(plain(root), indent=2, ensure_ascii=False) + "\n"


def _recipe(root: Node, folder: Path, path: Path | None, problems: Problems) -> Recipe:
    if not isinstance(root, TableNode):
        problems.stop(
            root.place, f"expected a table with `method:` and so on, found {describe(root)}"
        )
    if (told := not_a_merge(root)) is not None:
        problems.stop(root.place, told)
    if is_mergekit(root):
        return build_mergekit(root, folder, path, problems)
    named = root.entries.get("method")
    method = METHODS.get(str(named.value)) if isinstance(named, ScalarNode) else None
    read = recipe_form(method).read(root, problems)
    if read is MISSING or method is None:
        problems.raise_if_any()
        raise AssertionError("a problem was noted")
    recipe = build(read, method, root, folder, path, problems)
    problems.raise_if_any()
    return recipe
