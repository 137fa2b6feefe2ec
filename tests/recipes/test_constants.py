"""Constants that do not fit together, in recipes of mergekit's."""

import pytest
import torch

from conjoin.checkpoints import save
from conjoin.errors import RecipeError
from conjoin.recipes import make_plan, read_recipe

FREQ, WEIGHT = "model.layers.0.rotary_emb.inv_freq", "model.layers.0.mlp.weight"
HEAD = (
    "merge_method: linear\n"
    "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
)
OF_BASE = (
    "merge_method: task_arithmetic\nbase_model: base\n"
    "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
)


@pytest.fixture
def write(tmp_path):
    def make(name, freq=None):
        (tmp_path / name).mkdir()
        tensors = {WEIGHT: torch.full((2, 2), float(ord(name[0])))}
        if freq is not None:
            tensors[FREQ] = freq
        save(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")

    return make


@pytest.fixture
def planned(tmp_path):
    def make(text):
        (tmp_path / "recipe.yml").write_text(text)
        return make_plan(read_recipe(tmp_path / "recipe.yml"))

    return make


def test_of_some_models_alone_they_are_left_out(write, planned):
    write("a")
    write("b", torch.ones(2))
    plan = planned(HEAD)
    assert list(plan.merged) == [WEIGHT]
    assert f"constants that do not fit together are left out: {FREQ!r}" in plan.notes


def test_or_taken_from_the_model_whose_config_goes_along(write, planned):
    write("a", torch.ones(2))
    write("b")
    plan = planned(HEAD)
    assert torch.equal(plan.merged[FREQ], torch.ones(2))
    assert f"constants that do not fit together are those of model 0: {FREQ!r}" in plan.notes


def test_of_several_dtypes_they_are_of_one_model(write, planned):
    write("a", torch.full((2,), 0.3).half())
    write("b", torch.full((2,), 0.3))
    for files, dtype in (("a", torch.float16), ("b", torch.float32)):
        plan = planned(HEAD + f"output: {{files_from: {files}}}\n")
        assert torch.equal(plan.merged[FREQ], torch.full((2,), 0.3).to(dtype))


def test_with_a_base_they_are_the_bases(write, planned):
    write("a", torch.ones(3))
    write("b")
    write("base", torch.zeros(2))
    plan = planned(OF_BASE)
    assert torch.equal(plan.merged[FREQ], torch.zeros(2))
    assert f"constants that do not fit together are those of the base: {FREQ!r}" in plan.notes


def test_also_if_the_base_alone_has_them(write, planned, tmp_path):
    write("a")
    write("b")
    write("base", torch.arange(2.0))
    more = {WEIGHT: torch.zeros(2, 2), FREQ: torch.arange(2.0), "x.weight": torch.ones(1)}
    save(more, tmp_path / "base/model.safetensors", overwrite=True)
    plan = planned(OF_BASE)
    assert set(plan.merged) == {WEIGHT, FREQ}  # no weight of the base alone
    assert torch.equal(plan.merged[FREQ], torch.arange(2.0))
    assert f"constants that do not fit together are those of the base: {FREQ!r}" in plan.notes
    assert list(planned(OF_BASE + "output: {files_from: a}\n").merged) == [WEIGHT]


def test_also_in_slices(tmp_path):
    for name, value in (("a", 1.0), ("base", 3.0)):
        tensors = {f"model.layers.{n}.mlp.weight": torch.full((2, 2), value) for n in range(3)}
        if name == "base":
            freqs = {f"model.layers.{n}.rotary_emb.inv_freq": torch.full((2,), n) for n in range(3)}
            tensors |= freqs
        (tmp_path / name).mkdir()
        save(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"num_hidden_layers": 3}')
    (tmp_path / "recipe.yml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: base, layer_range: [0, 1]}, {model: a, layer_range: [0, 1]}]\n"
        "- sources: [{model: base, layer_range: [2, 3]}, {model: a, layer_range: [2, 3]}]\n"
    )
    merged = make_plan(read_recipe(tmp_path / "recipe.yml")).merged
    found = [int(merged[f"model.layers.{n}.rotary_emb.inv_freq"][0]) for n in range(2)]
    assert found == [0, 2]


def test_a_rule_of_the_recipe_comes_first(write, planned):
    write("a", torch.ones(2))
    write("b", torch.zeros(2).half())
    plan = planned(HEAD + f"keep: {{'{FREQ}': b}}\n")
    assert torch.equal(plan.merged[FREQ], torch.zeros(2).half())


def test_alike_they_have_to_agree(write, planned):
    write("a", torch.ones(2))
    write("b", torch.zeros(2))
    plan = planned(HEAD)
    with pytest.raises(Exception, match="is a constant, and 2 of its 2 elements differ"):
        _ = plan.merged[FREQ]


def test_weights_have_to_fit(write, planned, tmp_path):
    write("a")
    write("b")
    save({WEIGHT: torch.ones(2, 2), "x.weight": torch.ones(1)}, tmp_path / "b/model.safetensors",
         overwrite=True)  # fmt: skip
    with pytest.raises(RecipeError, match=r"x\.weight"):
        planned(HEAD)


def test_conjoins_own_recipes_ask(write, planned):
    write("a")
    write("b", torch.ones(2))
    with pytest.raises(RecipeError, match="inv_freq"):
        planned("method: mean\nmodels: [a, b]\n")
