"""What a recipe says for one tensor, and when two recipes mean the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conjoin.errors import RecipeError
from conjoin.methods import METHODS
from conjoin.recipes import InLayer, Outside, Recipe, Stack, find_layers, read_recipe, recipe_from

few = hypothesis_settings(deadline=None, max_examples=60)

LAYERS = find_layers([f"h.{i}.{part}.weight" for i in range(3) for part in ("a", "b")])


def ties(models: list[Any], **rest: Any) -> Recipe:
    return recipe_from({"method": "ties", "base": "o", "models": models, **rest})


def settings(recipe: Recipe, name: str, part: int = 0) -> tuple[Any, dict[str, Any]]:
    found = recipe.settings(recipe.parts[part], name, LAYERS.place(name))
    return found.weights, dict(found.parameters)


def test_nothing_said_is_nothing_given():
    assert settings(ties(["a", "b"]), "h.0.a.weight") == (None, {})


def test_the_model_comes_before_the_recipe():
    recipe = ties(
        [{"model": "a", "weight": 2, "density": {"h.0.*": 0.9}}, "b"],
        parameters={"weight": 1, "density": 0.5, "scale": 2},
    )
    assert settings(recipe, "h.0.a.weight") == ((2.0, 1.0), {"density": (0.9, 0.5), "scale": 2.0})
    assert settings(recipe, "h.1.a.weight") == ((2.0, 1.0), {"density": 0.5, "scale": 2.0})


def test_where_no_level_says_anything_the_default_fills_in():
    recipe = ties([{"model": "a", "density": {"h.0.*": 0.9}}, "b"])
    default = METHODS["ties"].defaults["density"]
    assert settings(recipe, "h.0.a.weight") == (None, {"density": (0.9, default)})
    assert settings(recipe, "h.1.a.weight") == (None, {})


def test_gradients_and_tables():
    recipe = ties(["a", "b"], parameters={"density": {"*.a.*": [0, 1], "*": 0.25}})
    found = [settings(recipe, f"h.{i}.{p}.weight")[1]["density"] for i in range(3) for p in "ab"]
    assert found == [0, 0.25, 0.5, 0.25, 1, 0.25]


def test_a_weight_for_some_models_only():
    recipe = ties([{"model": "a", "weight": {"h.0.*": 1}}, {"model": "b", "weight": 1}])
    assert settings(recipe, "h.0.a.weight")[0] == (1.0, 1.0)
    with pytest.raises(RecipeError, match=r"models\[0\]: this model has no weight for 'h.1.a.wei"):
        settings(recipe, "h.1.a.weight")


def test_slices_come_before_the_recipe_and_have_names_of_their_own():
    recipe = recipe_from(
        {
            "method": "linear",
            "slices": [
                {
                    "models": [
                        {"model": "a", "layers": [0, 2], "weight": {"h.0.*": 1, "*": 2}},
                        {"model": "b", "layers": [4, 6], "weight": {"h.4.*": 3, "*": 4}},
                    ],
                    "parameters": {"normalize": False},
                },
                {"models": [{"model": "a", "layers": [0, 2]}, {"model": "b", "layers": [2, 4]}]},
            ],
            "parameters": {"normalize": True, "weight": [0, 1]},
        }
    )
    stack = Stack("h.", (0, 1, 2, 3))
    first = recipe.settings(
        recipe.parts[0], "h.0.w", InLayer(stack, 0, 2), names=["h.0.w", "h.4.w"]
    )
    assert (first.weights, first.parameters) == ((1.0, 3.0), {"normalize": False})
    second = recipe.settings(
        recipe.parts[1], "h.3.w", InLayer(stack, 1, 2), names=["h.1.w", "h.3.w"]
    )
    assert (second.weights, second.parameters) == ((1.0, 1.0), {"normalize": True})


@few
@given(st.floats(0, 1), st.floats(0, 1), st.permutations(["density", "weight", "per"]))
def test_recipes_that_mean_the_same_are_equal(density: float, weight: float, order: list[str]):
    values = {"density": density, "weight": weight + 1, "per": "model"}
    first = ties(["x/a", {"model": "x/b"}], parameters={key: values[key] for key in order}, seed=0)
    second = ties(
        [{"model": "x/a", "name": "first"}, "x/b"],
        parameters={"density": {"*": density}, "weight": {"*": weight + 1, "not reached": 3}},
    )
    assert first.canonical() == second.canonical()
    assert json.loads(json.dumps(first.canonical())) == first.canonical()


CHANGES: list[dict[str, Any]] = [
    {"seed": 1},
    {"dtype": "float16"},
    {"arithmetic": "float64"},
    {"layers": "h.*"},
    {"only_some": "keep"},
    {"nonfinite": "allow"},
    {"keep": {"h.*": 0}},
    {"kinds": {"h.*": "constant"}},
    {"output": {"format": "torch"}},
    {"output": {"files_from": 0}},
    {"parameters": {"density": 0.3}},
    {"parameters": {"density": {"h.*": 0.3}}},
    {"parameters": {"density": [0, 1]}},
    {"parameters": {"density": {"gradient": [0, 1], "after": 0}}},
    {"base": "p"},
    {"models": ["b", "a"]},
    {"models": ["a", "b", "c"]},
    {"models": ["a", {"model": "b", "align": "p"}]},
    {"models": ["a", {"model": "b", "entry": "ema"}]},
    {"method": "task_arithmetic"},
]


def test_recipes_that_differ_are_not_equal():
    plain = {"method": "ties", "base": "o", "models": ["a", "b"]}
    found = [json.dumps(recipe_from({**plain, **change}).canonical()) for change in [{}, *CHANGES]]
    assert len(set(found)) == len(found)


def test_places_do_not_count():
    first = ties(["a", "b"])
    assert first == recipe_from({"models": ["a", "b"], "base": "o", "method": "ties"})


def test_outside_is_a_place_too():
    recipe = ties(["a", "b"], parameters={"density": [0.1, 0.9]})
    part = recipe.parts[0]
    assert recipe.settings(part, "wte", Outside.BEFORE).parameters == {"density": 0.1}
    assert recipe.settings(part, "head", Outside.AFTER).parameters == {"density": 0.9}


def test_the_folder_may_be_called_by_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = "method: mean\nmodels: [{model: a, align: p}, b]\n"
    (tmp_path / "recipe.yml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    first, second = read_recipe("recipe.yml"), read_recipe(tmp_path / "recipe.yml")
    assert first.canonical() == second.canonical()
