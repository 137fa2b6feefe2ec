"""conjoin does with mergekit's recipes what mergekit 0.1.5 does, but for what that does wrong.

``recipes.yml`` and ``results.npz`` were made by ``benchmarks/peers/mergekit_golden.py`` with the
real mergekit. Where conjoin's notes on merging call it wrong ("Wrong results that existing tools
give without a word"), a test here has the item in its name and states the right result.
"""

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from conjoin.checkpoints import open_checkpoint
from conjoin.errors import ConjoinError, RecipeError
from conjoin.recipes import Options, make_plan, read_recipe, run_plan

HERE = Path(__file__).parent
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "peers" / "mergekit_golden.py"
RECIPES: dict[str, Any] = yaml.safe_load((HERE / "recipes.yml").read_text(encoding="utf-8"))
RANDOM = tuple(name for name in RECIPES if name.startswith("random-"))
UNEVEN = "uneven-slices"


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mergekit_golden", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as for a script that is run
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> dict[str, np.ndarray]:
    with np.load(HERE / "results.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models")
    golden.write_models(place)
    return place


def merge(recipe: dict[str, Any], folder: Path, out: Path) -> dict[str, torch.Tensor]:
    path = folder / f"{out.name}.yml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    run_plan(make_plan(read_recipe(path)), out, Options(sync=False, card=False, threads=1))
    return dict(open_checkpoint(out).items())


def assert_same(found: torch.Tensor, expected: np.ndarray) -> None:
    """Equal to the rounding of float32: of values around 1, in a few operations."""
    torch.testing.assert_close(found, torch.from_numpy(expected.copy()), rtol=2e-6, atol=2e-6)


def test_the_recipes_are_those_of_the_script(golden):
    assert yaml.safe_load(yaml.safe_dump(golden.recipes())) == RECIPES


def test_the_recipes_have_what_can_be_said_in_them():
    text = (HERE / "recipes.yml").read_text(encoding="utf-8")
    assert len(RECIPES) >= 40
    for words in (
        "slices:",
        "models:",
        "filter: ",
        "normalize: ",
        "lambda: ",
        "density: ",
        "int8_mask: ",
    ):
        assert text.count(words) >= 5, words
    for words in ("rescale: true", "value: [", "weight: [", "layer_range: [1, 2]"):
        assert text.count(words) >= 2, words


def test_filters_of_weights_mean_the_names_in_the_models_at_every_level(
    golden, folder: Path, tmp_path: Path
):
    """Layer 0 of the stack is layer 2 of one model and layer 0 of the other."""
    filtered = [{"filter": "layers.0.", "value": 3}, {"value": 1}]
    sources = [{"model": "a", "layer_range": [2, 3]}, {"model": "b", "layer_range": [0, 1]}]
    recipe: dict[str, Any] = {"merge_method": "linear", "slices": [{"sources": sources}]}
    a, b = golden.weights("a"), golden.weights("b")
    of_slice = {**recipe["slices"][0], "parameters": {"weight": filtered}}
    for number, said in enumerate(
        ({"parameters": {"weight": filtered}}, {"slices": [of_slice], "parameters": {"weight": 9}})
    ):
        merged = merge({**recipe, **said}, folder, tmp_path / f"out-{number}")
        for part in ("self_attn.q_proj", "mlp.up_proj"):
            found = merged[f"model.layers.0.{part}.weight"]
            first = a[f"model.layers.2.{part}.weight"]
            assert_same(found, (first + 3 * b[f"model.layers.0.{part}.weight"]) / 4)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in (*RANDOM, UNEVEN)])
def test_a_gradient_gives_its_last_value_after_the_layers_and_all_else_is_as_in_mergekit(
    name: str, golden, results, folder, tmp_path
):
    merged = merge(RECIPES[name], folder, tmp_path / name)
    expected = golden.split(results[name])
    assert set(merged) == set(expected)
    if f"{name}!last" in results:
        # mergekit's first value is no value that anybody would want for the head.
        expected |= golden.split(results[f"{name}!last"], golden.AFTER)
    for tensor, values in expected.items():
        if merged[tensor].dtype == torch.float16:
            values = values.astype(np.float16)
        if RECIPES[name]["merge_method"] == "model_stock":
            values = np.where(apart(name, golden, tensor), golden.weights("base")[tensor], values)
        assert_same(merged[tensor], values)


def apart(name: str, golden: ModuleType, tensor: str) -> np.ndarray:
    """Where the changes of a and b go against each other, for each element of a tensor."""
    base, a, b = (golden.weights(model)[tensor] for model in golden.MODELS)
    products = (a - base) * (b - base)
    if name == "model_stock" or base.ndim == 1:
        return np.broadcast_to(products.sum() < 0, base.shape)
    return np.broadcast_to(products.sum(-1, keepdims=True) < 0, base.shape)


@pytest.mark.parametrize("name", ["model_stock", "model_stock-filter_wise"])
def test_model_stock_stays_at_the_base_where_models_go_against_each_other(
    name: str, golden, results, folder, tmp_path
):
    """mergekit goes away from both there. Where they agree, the test before has compared."""
    merged, theirs = merge(RECIPES[name], folder, tmp_path / name), golden.split(results[name])
    base, a, b = map(golden.weights, golden.MODELS)
    where = {tensor: apart(name, golden, tensor) for tensor in base}
    for tensor, values in base.items():
        ours = merged[tensor].numpy()
        np.testing.assert_array_equal(ours[where[tensor]], values[where[tensor]])
        mean = (a[tensor] + b[tensor]) / 2 - values
        assert (((theirs[tensor] - values) / mean)[where[tensor]] < 0).all()
    everywhere = np.concatenate([flags.ravel() for flags in where.values()])
    assert 0.2 < everywhere.mean() < 0.8


def test_gradients_differ_at_the_head(golden, results):
    """Else the test before would not see from which end a value is taken."""
    head = "lm_head.weight"
    differ = [
        name
        for name in RECIPES
        if f"{name}!last" in results
        and not np.allclose(
            golden.split(results[name])[head],
            golden.split(results[f"{name}!last"], golden.AFTER)[head],
        )
    ]
    assert len(differ) >= 5


def test_slices_with_different_numbers_of_sources_keep_all_sources_of_the_head(
    golden, results, folder, tmp_path
):
    merged = merge(RECIPES[UNEVEN], folder, tmp_path / "out")
    theirs = golden.split(results[UNEVEN])
    # As where the first slice has as many sources as the last.
    right = golden.split(results["even-slices"])
    for name in merged:
        assert_same(merged[name], right[name] if name in golden.AFTER else theirs[name])
    a, b = golden.weights("a"), golden.weights("b")
    for name in golden.AFTER:
        assert_same(merged[name], (a[name] + b[name]) / 2)
        np.testing.assert_array_equal(theirs[name], a[name])  # mergekit has dropped b


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "dare_linear"])
def test_weights_one_and_minus_one_with_normalization_are_refused(
    method: str, folder: Path, tmp_path: Path
):
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {"model": "a", "parameters": {"weight": 1}},
            {"model": "b", "parameters": {"weight": -1}},
        ],
        "parameters": {"normalize": True},
    }
    if method != "linear":
        recipe["base_model"] = "base"
    with pytest.raises(ConjoinError, match="sum to zero"):
        merge(recipe, folder, tmp_path / "out")


def test_a_model_that_is_listed_twice_counts_twice(golden, folder: Path, tmp_path: Path):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": name} for name in ("a", "a", "b")],
        "parameters": {"weight": 1},
    }
    merged = merge(recipe, folder, tmp_path / "out")
    a, b = golden.weights("a"), golden.weights("b")
    for name, tensor in merged.items():
        assert_same(tensor, (2 * a[name] + b[name]) / 3)


@pytest.mark.parametrize(
    ("wrong", "right"), [("densty", "density"), ("lamda", "lambda"), ("wieght", "weight")]
)
def test_mistyped_parameters_are_refused(wrong: str, right: str, folder: Path, tmp_path: Path):
    recipe = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a"}],
        "parameters": {"weight": 1, wrong: 0.5},
    }
    with pytest.raises(RecipeError, match=f"{wrong}.*{right}"):
        merge(recipe, folder, tmp_path / "out")


@pytest.mark.parametrize("wrong", ["out_dtpye", "parametres"])
def test_mistyped_keys_are_refused(wrong: str, folder: Path, tmp_path: Path):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 1},
        wrong: {"weight": 1},
    }
    with pytest.raises(RecipeError, match=wrong):
        merge(recipe, folder, tmp_path / "out")


def test_one_nan_in_an_input_is_refused(golden, folder: Path, tmp_path: Path):
    from safetensors.numpy import save_file

    spoiled = golden.weights("a")
    spoiled["model.layers.2.mlp.up_proj.weight"][1, 2] = math.nan
    save_file(spoiled, tmp_path / "spoiled.safetensors")
    recipe = {
        "merge_method": "slerp",
        "base_model": str(folder / "base"),
        "models": [{"model": str(tmp_path / "spoiled.safetensors")}],
        "parameters": {"t": 0.5},
    }
    with pytest.raises(ConjoinError, match=r"layers\.2\.mlp\.up_proj"):
        merge(recipe, folder, tmp_path / "out")


@pytest.mark.parametrize("name", RANDOM)
def test_dare_drops_as_many_and_restores_the_same_sums(
    name: str, golden, results, folder: Path, tmp_path: Path
):
    """The masks cannot be mergekit's. What they do to each tensor is the same."""
    merged = {
        key: value.numpy() for key, value in merge(RECIPES[name], folder, tmp_path / name).items()
    }
    base, model = golden.weights("base"), golden.weights("a")
    for found in (merged, golden.split(results[name])):
        kept, size = 0, 0
        for tensor, values in found.items():
            change, wanted = values - base[tensor], model[tensor] - base[tensor]
            left = np.abs(change) > 1e-6
            if not left.any():
                continue
            total = np.abs(wanted).sum(dtype=np.float64)
            factors = change[left] / wanted[left]
            # One factor for the whole tensor, and with it the sum of magnitudes is what it was.
            np.testing.assert_allclose(factors, np.median(factors), rtol=1e-3)
            np.testing.assert_allclose(np.abs(change).sum(dtype=np.float64), total, rtol=1e-4)
            kept, size = kept + int(left.sum()), size + left.size
        # Six standard deviations of a binomial distribution.
        assert abs(kept - size / 2) < 6 * math.sqrt(size / 4)
