"""Methods that give one result for each task."""

import torch

from conjoin.checkpoints import save
from conjoin.recipes import recipe_from, tasks_of
from conjoin.recipes.tasks import for_task, task_of


def _recipe(tmp_path, **changes):
    for k, name in enumerate("abc"):
        save({"w": torch.arange(6.0) * (k - 1)}, tmp_path / f"{name}.safetensors", overwrite=True)
    mapping = {"method": "tall_mask", "base": "a.safetensors"}
    models = ["b.safetensors", "c.safetensors"]
    return recipe_from({**mapping, "models": models, **changes}, folder=tmp_path)


def test_one_recipe_for_each_model(tmp_path):
    found = tasks_of(_recipe(tmp_path))
    assert [task_of(one) for one in found.values()] == [0, 1]
    assert len({str(one.canonical()) for one in found.values()}) == 2
    assert all(not tasks_of(one) for one in found.values())  # each says whose it is


def test_named_after_the_models(tmp_path):
    named = [
        {"model": "b.safetensors", "name": "math / one"},
        {"model": "c.safetensors", "name": "b"},
    ]
    assert list(tasks_of(_recipe(tmp_path, models=named))) == ["math-one", "b"]
    alike = [{"model": "b.safetensors", "name": "x/y"}, {"model": "c.safetensors", "name": "x y"}]
    assert list(tasks_of(_recipe(tmp_path, models=alike))) == ["0", "1"]


def test_a_recipe_that_says_whose(tmp_path):
    recipe = _recipe(tmp_path, parameters={"task": 1})
    assert tasks_of(recipe) == {}
    assert task_of(recipe) == 1
    assert for_task(recipe, 0).canonical() != recipe.canonical()


def test_other_methods_have_one_result(tmp_path):
    recipe = _recipe(tmp_path, method="task_arithmetic")
    assert tasks_of(recipe) == {}
    assert task_of(recipe) is None
