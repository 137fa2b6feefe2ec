"""Bases in recipes of mergekit: listed alone, and said in slices."""

from pathlib import Path

import pytest
import torch
from layered_models import layered

from conjoin.checkpoints import save
from conjoin.errors import RecipeError
from conjoin.recipes import Recipe, make_plan, read_recipe

OF_ANY_NUMBER = [
    *("task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear"),
    *("breadcrumbs", "breadcrumbs_ties", "sce", "ram", "ramplus_tl"),
]


def read(text: str, folder: Path) -> Recipe:
    path = folder / "mergekit.yml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def write(folder: Path, name: str, seed: int) -> dict[str, torch.Tensor]:
    tensors = layered(2, seed=seed)
    (folder / name).mkdir()
    save(tensors, folder / name / "model.safetensors")
    (folder / name / "config.json").write_text("{}")
    return tensors


@pytest.mark.parametrize("name", OF_ANY_NUMBER)
@pytest.mark.parametrize(
    "inputs",
    [
        "models: [{model: base}]\nbase_model: base\n",
        "slices: [{sources: [{model: base, layer_range: [0, 2]}]}]\nbase_model: base\n",
        "slices: [{base_model: base, sources: [{model: base, layer_range: [0, 2]}]}]\n",
    ],
)
def test_a_base_alone_is_the_result(inputs: str, name: str, tmp_path: Path):
    tensors = write(tmp_path, "base", 1)
    recipe = read(f"{inputs}merge_method: {name}\ndtype: float64\n", tmp_path)
    merged = make_plan(recipe).merged
    assert set(merged) == set(tensors)
    for key, tensor in tensors.items():
        assert torch.equal(merged[key], tensor.double())
    assert any("nothing but the base 'base' is listed" in note for note in recipe.notes)


def test_a_slice_of_the_base_alone(tmp_path: Path):
    models = {name: write(tmp_path, name, seed) for seed, name in enumerate(("base", "a"))}
    recipe = read(
        """
slices:
- sources: [{model: base, layer_range: [0, 1]}, {model: a, layer_range: [1, 2]}]
- sources: [{model: base, layer_range: [1, 2]}]
base_model: base
merge_method: task_arithmetic
parameters: {weight: 1}
""",
        tmp_path,
    )
    merged = make_plan(recipe).merged
    for here, there, name in ((0, 1, "a"), (1, 1, "base")):
        expected = models[name][f"model.layers.{there}.mlp.up.weight"]
        torch.testing.assert_close(merged[f"model.layers.{here}.mlp.up.weight"], expected)
    assert torch.equal(merged["lm_head.weight"], models["base"]["lm_head.weight"])


@pytest.mark.parametrize("name", ["model_stock", "multislerp", "nearswap"])
def test_methods_that_need_other_models_than_the_base(name: str, tmp_path: Path):
    text = f"models: [{{model: base}}]\nbase_model: base\nmerge_method: {name}\n"
    with pytest.raises(RecipeError, match=f"1: {name} needs other models than the base 'base'"):
        read(text, tmp_path)


def test_slices_of_slerp_may_each_have_a_base(tmp_path: Path):
    recipe = read(
        """
slices:
- {base_model: a, sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}
- {base_model: b, sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]}
- {sources: [{model: c, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]}
base_model: c
merge_method: slerp
parameters: {t: 0.5}
""",
        tmp_path,
    )
    names = [[recipe.sources[use.source].reference for use in part.uses] for part in recipe.parts]
    assert names == [["a", "b"], ["b", "a"], ["c", "b"]]


def test_slices_may_all_say_the_base(tmp_path: Path):
    a_slice = "{base_model: o, sources: [{model: a, layer_range: [0, 1]}, "
    a_slice += "{model: o, layer_range: [0, 1]}]}"
    tail = "merge_method: ties\nparameters: {weight: 1}\n"
    recipe = read(f"slices: [{a_slice}, {a_slice}]\n{tail}", tmp_path)
    once = a_slice.replace("base_model: o, ", "")
    top = read(f"slices: [{once}, {once}]\nbase_model: o\n{tail}", tmp_path)
    assert recipe.canonical() == top.canonical()
