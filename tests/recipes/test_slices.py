"""Slices: layers are counted anew, what is around them comes from the ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import data, integers, lists, sampled_from
from layered_models import layered

from conjoin.checkpoints import MemoryCheckpoint
from conjoin.errors import RecipeError
from conjoin.recipes import make_plan, recipe_from

PARTS = ("attn.q_proj.weight", "mlp.up.weight", "ln.weight")


def layer(tensors, number):
    return [tensors[f"model.layers.{number}.{part}"] for part in PARTS]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


STACKED = """\
method: passthrough
slices:
  - models: [{model: a, layers: [0, 2]}]
  - models: [{model: b, layers: [1, 3]}]
  - models: [{model: a, layers: [2, 3]}]
"""


def test_stacked_layers_follow_each_other(model, merged):
    a, b = model("a"), model("b")
    found = merged(STACKED)
    assert len(found) == 3 + 5 * 3
    for number, (source, there) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2), (a, 2)]):
        assert_equal(layer(found, number), layer(source, there))
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(found["lm_head.weight"], a["lm_head.weight"])


def test_each_end_is_of_its_own_slice(model, merged):
    a, b = model("a"), model("b")
    found = merged(
        "method: passthrough\nslices:\n  - models: [{model: a, layers: [0, 1]}]\n"
        "  - models: [{model: b, layers: [0, 3]}]\n"
    )
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(found[name], b[name])


def test_merged_slices_may_take_other_layers_of_each_model(model, merged):
    a, b = model("a"), model("b", layers=5)
    found = merged(
        "method: linear\nslices:\n  - models:\n    - {model: a, layers: [0, 3], weight: 1}\n"
        "    - {model: b, layers: [2, 5], weight: 3}\n"
    )
    for number in range(3):
        pairs = zip(layer(a, number), layer(b, number + 2), strict=True)
        assert_equal(layer(found, number), [(x + 3 * y) / 4 for x, y in pairs])


def test_a_gradient_runs_over_the_slice(model, merged):
    a, b = model("a", layers=4), model("b", layers=4)
    found = merged(
        "method: slerp\nslices:\n"
        "  - models: [{model: a, layers: [0, 2]}, {model: b, layers: [0, 2]}]\n"
        "    parameters: {t: [0, 1]}\n"
        "  - models: [{model: a, layers: [2, 4]}, {model: b, layers: [2, 4]}]\n"
        "    parameters: {t: [1, 0]}\n"
    )
    for number, source in enumerate([a, b, b, a]):
        assert_equal(layer(found, number), layer(source, number))
    # before the first slice's layers its first value, after the last one's layers its last
    assert_equal([found["model.embed_tokens.weight"]], [a["model.embed_tokens.weight"]])
    assert_equal([found["lm_head.weight"]], [a["lm_head.weight"]])


def test_values_of_a_model_are_looked_up_by_its_own_names(model, merged):
    a, b = model("a"), model("b")
    weight = '{"*.layers.2.mlp.*": 0, "*": 1}'
    found = merged(
        "method: linear\nslices:\n  - models: [{model: a, layers: [0, 1], weight: 1}]\n"
        "  - models:\n"
        f"    - {{model: a, layers: [0, 3], weight: {weight}}}\n"
        "    - {model: b, layers: [0, 3], weight: 1}\n"
    )
    there, here = "model.layers.2.mlp.up.weight", "model.layers.3.mlp.up.weight"
    assert torch.equal(found[here], b[there])
    mean = (a["model.layers.1.mlp.up.weight"] + b["model.layers.1.mlp.up.weight"]) / 2
    assert torch.equal(found[there], mean)


def test_the_base_says_its_layers(model, merged):
    zero, a = model("zero", layers=4), model("a")
    found = merged(
        "method: task_arithmetic\nbase: zero\nslices:\n"
        "  - models: [{model: a, layers: [0, 2]}]\n    base_layers: [1, 3]\n"
        "    parameters: {scale: 0.5}\n"
    )
    for number in range(2):
        pairs = zip(layer(zero, number + 1), layer(a, number), strict=True)
        assert_equal(layer(found, number), [x + (y - x) / 2 for x, y in pairs])


def test_a_base_that_is_a_model_of_the_slice_gives_the_layers_that_it_has_there(model, merged):
    model("a", layers=4)
    b = model("b", layers=4, config={})
    found = merged(
        "merge_method: linear\nbase_model: b\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]\n"
        "keep: {'*.q_proj.weight': base}\n"
    )
    for layer in range(2):
        name = "model.layers.{}.attn.q_proj.weight"
        assert torch.equal(found[name.format(layer)], b[name.format(layer + 2)])


def test_a_base_for_its_config_alone_needs_no_layers(model, plan):
    model("a"), model("zero", {"other": torch.ones(1)}, config={"num_hidden_layers": 9})
    made = plan(STACKED.replace("b", "a") + "base: zero\noutput: {files_from: base}\n")
    assert len(made.merged) == 3 + 5 * 3
    assert list(made.carried) == ["config.json"]


@given(data())
@settings(max_examples=25, deadline=None)
def test_any_slices(given_data):
    """Layer k of the result is the k-th layer of all slices, whatever they are."""
    depths = given_data.draw(lists(integers(1, 4), min_size=1, max_size=3))
    models = {f"m{k}": MemoryCheckpoint(layered(depth, k)) for k, depth in enumerate(depths)}
    wanted = []
    for _ in range(given_data.draw(integers(1, 4))):
        name = given_data.draw(sampled_from(sorted(models)))
        depth = depths[int(name[1:])]
        begin = given_data.draw(integers(0, depth - 1))
        wanted.append((name, begin, given_data.draw(integers(begin + 1, depth))))
    slices = [{"models": [{"model": n, "layers": [b, e]}]} for n, b, e in wanted]
    recipe = recipe_from({"method": "passthrough", "layers": "model.layers.*", "slices": slices})
    found = make_plan(recipe, given=models).merged
    expected = [layer(models[n], k) for n, b, e in wanted for k in range(b, e)]
    assert len(found) == 3 + 3 * len(expected)
    for number, tensors in enumerate(expected):
        for one, other in zip(layer(found, number), tensors, strict=True):
            assert torch.equal(one, other)


def test_layers_that_are_not_there_are_all_named_with_their_lines(model, plan):
    model("a"), model("b", layers=2)
    text = (
        "method: linear\nslices:\n  - models: [{model: a, layers: [0, 9], weight: 1}]\n"
        "  - models:\n    - {model: a, layers: [0, 2], weight: 1}\n"
        "    - {model: b, layers: [1, 3], weight: 1}\n"
    )
    with pytest.raises(RecipeError) as caught:
        plan(text)
    _, first, second = str(caught.value).splitlines()
    assert "recipe.yml:3: the layers [0, 9) are not within the 3 layers of" in first
    assert "recipe.yml:6: the layers [1, 3) are not within the 2 layers of" in second


def test_whole_models_of_different_depth(model, plan):
    model("a"), model("b", layers=2)
    text = "method: mean\nslices:\n  - models: [a, b]\n"
    with pytest.raises(RecipeError, match=r"2 layers would be merged with 3"):
        plan(text)


def test_there_has_to_be_one_stack(plan, model):
    two = {
        f"{part}.layers.{n}.{w}.weight": torch.ones(1)
        for part in ("encoder", "decoder")
        for n in range(2)
        for w in "uv"
    }
    model("a", two), model("b", {"fc.weight": torch.ones(1)})
    text = "method: passthrough\nslices:\n  - models: [{model: %s, layers: [0, 1]}]\n"
    with pytest.raises(RecipeError, match=r"encoder.layers.\*, decoder.layers.\*"):
        plan(text % "a")
    with pytest.raises(RecipeError, match=r"there are: none"):
        plan(text % "b")


def test_a_pattern_says_where_the_layers_are(model, merged):
    tensors = {f"net.{n}.weight": torch.full((1,), float(n)) for n in (0, 2, 4)}
    model("a", tensors)
    found = merged(
        'method: passthrough\nlayers: "net.*"\nslices:\n'
        "  - models: [{model: a, layers: [1, 3]}]\n  - models: [{model: a, layers: [0, 2]}]\n"
    )
    # layers are counted over those that exist
    assert [found[f"net.{n}.weight"].item() for n in range(4)] == [2, 4, 0, 2]


def test_a_name_that_says_nothing_of_its_place_is_refused(model, plan, merged):
    a = model("a")
    model("a", a | {"logit_scale": torch.ones(1)})
    model("b")
    with pytest.raises(RecipeError, match=r"'logit_scale' of .* is in no layer"):
        plan(STACKED)
    for whose in "ab":
        model("b", layered(3, 5) | {"logit_scale": torch.full((1,), 2.0)})
        found = merged(STACKED + f"keep: {{logit_scale: {whose}}}\n")
        assert found["logit_scale"].item() == {"a": 1, "b": 2}[whose]
    # Within one slice it does not matter, and neither where all slices are of one model.
    for text in (
        "method: passthrough\nslices:\n  - models: [{model: a, layers: [0, 2]}]\n",
        STACKED.replace("b", "a"),
    ):
        assert torch.equal(merged(text)["logit_scale"], torch.ones(1))


def with_tower(tensors, seed):
    """Put a vision tower, with layers of its own, beside a language model."""
    tower = layered(2, seed)
    return {
        **{f"language_model.{name}": tensor for name, tensor in tensors.items()},
        **{f"vision_tower.{name}": tensor for name, tensor in tower.items()},
        "multi_modal_projector.norm.weight": torch.full((2,), float(seed)),
    }


def test_a_tower_beside_the_layers_is_of_the_first_slice_as_a_whole(model, merged, plan):
    a, b = with_tower(layered(3, 1), 2), with_tower(layered(3, 3), 4)
    model("a", a), model("b", b)
    with pytest.raises(RecipeError, match=r'slices need one stack.*layers: "PATTERN\.\*"'):
        plan(STACKED)
    found = merged(STACKED + 'layers: "language_model.model.layers.*"\n')
    tower = [name for name in a if name.startswith("vision_tower.")]
    assert all(torch.equal(found[name], a[name]) for name in tower)
    assert sorted(name for name in found if name.startswith("vision_tower.")) == sorted(tower)
    found = merged(
        STACKED.replace("model: a, layers: [2, 3]", "model: b, layers: [2, 3]")
        + 'layers: "language_model.model.layers.*"\n'
    )
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(found[f"language_model.{name}"], b[f"language_model.{name}"])
    projector = "multi_modal_projector.norm.weight"
    assert torch.equal(found[projector], a[projector])
    here, there = (f"language_model.model.layers.{n}.mlp.up.weight" for n in (3, 2))
    assert torch.equal(found[here], b[there])
