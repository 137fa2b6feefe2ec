"""The models of a recipe are opened, or every one that cannot be is named with its line."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from conjoin.checkpoints import MemoryCheckpoint, save
from conjoin.errors import InputError, RecipeError
from conjoin.merging import merge
from conjoin.recipes import make_plan, read_recipe, recipe_from
from conjoin.recipes.opening import open_sources
from conjoin.symmetry import find_symmetries


def test_every_model_that_cannot_be_opened_is_named_with_its_line(model, recipe, tmp_path):
    model("a")
    (tmp_path / "damaged.safetensors").write_bytes(b"<html>")
    text = (
        "method: task_arithmetic\nbase: ./zero\nmodels:\n  - a\n  - damaged.safetensors\n  - ./c\n"
    )
    with pytest.raises(RecipeError) as caught:
        open_sources(recipe(text))
    first, *lines = str(caught.value).replace(f"{tmp_path}/recipe.yml", "").splitlines()
    assert first == " has 3 problems:"
    assert [line.split(":")[1] for line in lines] == ["2", "5", "6"]
    assert "zero" in lines[0]
    assert "damaged.safetensors" in lines[1]


def test_modules_may_be_given_by_reference_and_recipes_in_every_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nets = {name: nn.Linear(2, 1) for name in "ab"}
    written = {
        "method": "linear",
        "models": [{"model": n, "weight": np.float64(0.5)} for n in nets],
    }
    (tmp_path / "r.yml").write_text(recipe_from(written).text)
    expected = merge(list(nets.values())).weight
    for given in (written, recipe_from(written), "r.yml", tmp_path / "r.yml"):
        assert torch.equal(make_plan(given, given=nets).merged["weight"], expected)
    with pytest.raises(InputError, match="given has to be a mapping"):
        make_plan(written, given=list(nets.values()))


def test_the_base_is_last_and_files_are_known(model, recipe, tmp_path):
    for name in ("a", "b", "zero"):
        model(name)
    opened = open_sources(recipe("method: task_arithmetic\nbase: zero\nmodels: [a, b]\n"))
    assert opened.everyone == (*opened.models, opened.base)
    assert opened.files == tuple((tmp_path / n / "model.safetensors",) for n in ("a", "b", "zero"))


def test_an_entry_of_a_torch_file(recipe, tmp_path):
    for number in (1.0, 3.0):
        content = {"ema": {"w": torch.full((2,), number)}, "model": {"w": torch.ones(2)}}
        torch.save(content, tmp_path / f"{number:.0f}.pt")
    text = "method: mean\nmodels: [{model: 1.pt, entry: ema}, {model: 3.pt, entry: ema}]\n"
    assert torch.equal(make_plan(recipe(text)).merged["w"], torch.full((2,), 2.0))
    with pytest.raises(RecipeError, match=r"recipe.yml:2: .*ema.*model"):
        open_sources(recipe("method: mean\nmodels: [1.pt, {model: 3.pt, entry: ema}]\n"))


def test_a_reference_with_an_adapter(model, merged, tmp_path):
    name = "model.layers.0.attn.q_proj.weight"
    a, b = model("a"), model("b")
    adapter = tmp_path / "lora"
    adapter.mkdir()
    key = f"base_model.model.{name.removesuffix('.weight')}"
    up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, -1.0]])
    save(
        {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    found = merged("method: mean\nmodels: [a+lora, b]\n")
    expected = (a[name] + 2 * up @ down + b[name]) / 2
    torch.testing.assert_close(found[name], expected)
    assert torch.equal(found["lm_head.weight"], (a["lm_head.weight"] + b["lm_head.weight"]) / 2)


@pytest.fixture
def aligned(tmp_path):
    """Two networks and the order of the second."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(2)]
    for name, net in zip("ab", nets, strict=True):
        save(net, tmp_path / f"{name}.safetensors")
    found = find_symmetries(nets[1], torch.randn(4, 3))
    order = found.sample(torch.Generator().manual_seed(1))
    (tmp_path / "orders").mkdir()
    order.save(tmp_path / "orders" / "b.safetensors")
    (tmp_path / "recipe.yml").write_text(
        "method: mean\nmodels:\n  - a.safetensors\n"
        "  - {model: b.safetensors, align: orders/b.safetensors}\n"
    )
    return nets, order


def test_a_model_seen_through_a_permutation_is_the_aligned_one(aligned, tmp_path):
    (a, b), order = aligned
    found = make_plan(read_recipe(tmp_path / "recipe.yml")).merged
    expected = merge([dict(a.state_dict()), dict(order.apply(b).state_dict())])
    assert not torch.equal(found["0.weight"], merge([a, b])[0].weight)
    for name in expected:
        assert torch.equal(found[name], expected[name])


def test_the_recipe_may_be_named_from_anywhere(aligned, tmp_path, monkeypatch):
    there = make_plan(read_recipe(tmp_path / "recipe.yml"))
    monkeypatch.chdir(tmp_path.parent)
    here = make_plan(read_recipe(f"{tmp_path.name}/recipe.yml"))
    for name in there.merged:
        assert torch.equal(here.merged[name], there.merged[name])
    assert here.recipe.canonical() == there.recipe.canonical()


def test_another_order_is_another_plan(aligned, tmp_path):
    before = make_plan(read_recipe(tmp_path / "recipe.yml"))
    assert before.opened.files[1][-1] == tmp_path / "orders" / "b.safetensors"
    _, order = aligned
    order.inverse().save(tmp_path / "orders" / "b.safetensors")
    assert make_plan(read_recipe(tmp_path / "recipe.yml")).hash != before.hash


def test_an_order_of_another_structure_is_an_error_with_its_line(aligned, model, recipe):
    model("a")
    text = "method: mean\nmodels:\n  - a\n  - {model: a, align: orders/b.safetensors, name: x}\n"
    with pytest.raises(RecipeError, match=r"recipe.yml:4: "):
        open_sources(recipe(text))


def test_models_that_are_open_already(recipe):
    given = {"a": MemoryCheckpoint({"w": torch.ones(1)})}
    given["b"] = MemoryCheckpoint({"w": torch.zeros(1)})
    opened = open_sources(recipe("method: mean\nmodels: [a, b]\n"), given)
    assert [one.inner for one in opened.models] == list(given.values())
    assert opened.files == ((), ())
