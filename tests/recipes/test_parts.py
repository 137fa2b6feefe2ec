"""What a recipe says of every tensor: values, kept ones, kinds, names that only some have."""

import pytest
import torch

from conjoin.checkpoints import Kind, save
from conjoin.dtypes import FLOAT32, FLOAT64
from conjoin.errors import NonFiniteError, RecipeError
from conjoin.merging import Rule, merge
from conjoin.methods import METHODS, Need

HEAD, NORM, EMBED = "lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"


def shares(a, b, found, names):
    """The share of b in every tensor: found = a + share (b - a)."""
    return [((found[n] - a[n]) / (b[n] - a[n])).mean().item() for n in names]


def layers_of(part, count=3):
    return [f"model.layers.{n}.{part}.weight" for n in range(count)]


def test_values_by_pattern(model, merged):
    a, b = model("a"), model("b")
    found = merged(
        "method: linear\nparameters: {normalize: true}\nmodels:\n  - {model: a, weight: 1}\n"
        '  - {model: b, weight: {"*.mlp.*": 3, "model.layers.1.*": 1, "*": 0}}\n'
    )
    assert shares(a, b, found, layers_of("mlp.up")) == pytest.approx([0.75] * 3)
    assert shares(a, b, found, layers_of("ln")) == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert shares(a, b, found, [EMBED, HEAD]) == pytest.approx([0, 0], abs=1e-6)


def test_a_gradient_over_layers(model, merged):
    a, b = model("a", layers=5), model("b", layers=5)
    found = merged(
        "method: linear\nmodels:\n  - {model: a, weight: [1, 0]}\n  - {model: b, weight: [0, 1]}\n"
    )
    names = [EMBED, *layers_of("mlp.up", 5), NORM, HEAD]
    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert shares(a, b, found, names) == pytest.approx(expected, abs=1e-5)


def test_a_gradient_needs_no_value_for_what_does_not_use_one(model, merged):
    a, b = model("a"), model("b")
    for name, tensors in (("a", a), ("b", b)):
        model(name, tensors | {"rotary.inv_freq": torch.ones(2), "step": torch.tensor(3)})
    text = "method: linear\nmodels: [{model: a, weight: [1, 0]}, {model: b, weight: [0, 1]}]\n"
    found = merged(text)
    assert torch.equal(found["rotary.inv_freq"], torch.ones(2))
    model("a", a | {"temperature": torch.ones(2)})
    model("b", b | {"temperature": torch.ones(2)})
    with pytest.raises(RecipeError, match=r"recipe.yml:2: the gradient .*'temperature'"):
        merged(text)


def test_the_ends_of_a_gradient(model, merged):
    a, b = model("a"), model("b")
    ramp = "{gradient: [0, 1], before: 0.5, after: 0.25}"
    found = merged(
        "method: linear\nparameters: {normalize: false}\nmodels:\n  - {model: a, weight: 1}\n"
        f'  - {{model: b, weight: {{"*": {ramp}}}}}\n'
    )
    for name, weight in ((EMBED, 0.5), (NORM, 0.25), (layers_of("ln")[1], 0.5)):
        torch.testing.assert_close(found[name], a[name] + weight * b[name])


def test_parameters_of_a_model_and_of_all(model, plan):
    model("zero"), model("a"), model("b")
    made = plan(
        "method: ties\nbase: zero\nmodels:\n  - {model: a, density: 0.3}\n  - b\n"
        "parameters: {density: 0.5, scale: 2}\n"
    )
    for record in made.records():
        assert record.parameters["density"] == (0.3, 0.5)
        assert record.parameters["scale"] == 2
        assert record.weights is None


ONE_MORE = "model.rotary.inv_freq"
TEXT = "method: mean\nmodels: [a, b]\n"


def test_names_that_only_some_have_are_refused(model, plan):
    b = model("b")
    model("a", b | {ONE_MORE: torch.ones(2)})
    with pytest.raises(RecipeError, match=rf"recipe.yml:2: .*\n.*only in model 0.*{ONE_MORE}"):
        plan(TEXT)


def test_names_that_only_some_have_are_kept(model, merged):
    a, b = model("a"), model("b")
    model("a", {k: v for k, v in a.items() if k != HEAD} | {ONE_MORE: torch.full((2,), 7.0)})
    found = merged(TEXT + "only_some: keep\n")
    assert torch.equal(found[ONE_MORE], torch.full((2,), 7.0))
    assert torch.equal(found[HEAD], b[HEAD])
    assert torch.equal(found[NORM], (a[NORM] + b[NORM]) / 2)


def test_names_that_only_some_have_are_dropped_and_it_is_said(model, plan):
    a = model("b")
    model("a", a | {ONE_MORE: torch.ones(2)})
    made = plan(TEXT + "only_some: drop\n")
    assert ONE_MORE not in made.merged
    assert list(made.merged) == list(a)
    assert [note for note in made.notes if ONE_MORE in note]


@pytest.mark.parametrize("only_some", ["refuse", "keep", "drop"])
def test_the_second_name_of_a_tie_may_be_missing(model, merged, only_some):
    tied = model("a")
    model("a", tied | {HEAD: tied[EMBED]})
    b = model("b")
    model("b", {name: tensor for name, tensor in b.items() if name != HEAD})
    found = merged(TEXT + f"only_some: {only_some}\n")
    assert found.specs[HEAD].alias_of == EMBED
    torch.testing.assert_close(found[HEAD], (tied[EMBED] + b[EMBED]) / 2)


def test_tensors_are_kept_from_a_model_by_name_or_number(model, merged):
    a, b = model("a"), model("b")
    found = merged(TEXT + 'keep: {"lm_*": b, "*.norm.*": 0}\n')
    assert torch.equal(found[HEAD], b[HEAD])
    assert torch.equal(found[NORM], a[NORM])
    assert torch.equal(found[EMBED], (a[EMBED] + b[EMBED]) / 2)


def test_what_is_kept_may_differ_in_shape_or_be_of_one_model(model, merged):
    a, b = model("a"), model("b")
    model("b", b | {HEAD: torch.ones(9, 2), "extra.weight": torch.ones(1)})
    found = merged(TEXT + 'keep: {"lm_head.*": a, "extra.*": b}\n')
    assert torch.equal(found[HEAD], a[HEAD])
    assert torch.equal(found["extra.weight"], torch.ones(1))


def test_tensors_are_kept_from_the_base(model, merged):
    zero, a = model("zero"), model("a")
    text = "method: task_arithmetic\nbase: zero\nmodels: [a]\nkeep: {lm_head.*: base}\n"
    found = merged(text)
    assert torch.equal(found[HEAD], zero[HEAD])
    torch.testing.assert_close(found[NORM], a[NORM])


def test_a_base_for_what_is_kept_alone_takes_no_part_in_the_method(model, merged):
    zero, a, b = model("zero"), model("a"), model("b")
    found = merged("method: mean\nbase: zero\nmodels: [a, b]\nkeep: {lm_head.*: base}\n")
    assert torch.equal(found[HEAD], zero[HEAD])
    assert torch.equal(found[NORM], (a[NORM] + b[NORM]) / 2)


def test_a_base_for_the_config_alone_need_not_fit(model, plan, tmp_path):
    a, b = model("a"), model("b")
    model("zero", {"other.weight": torch.ones(1)}, config={"k": 1})
    made = plan("method: mean\nbase: zero\nmodels: [a, b]\noutput: {files_from: base}\n")
    assert torch.equal(made.merged[NORM], (a[NORM] + b[NORM]) / 2)
    assert list(made.carried) == ["config.json"]
    assert made.read_bytes == 2 * 4 * sum(tensor.numel() for tensor in a.values())


def test_what_is_to_be_kept_has_to_be_there(model, plan):
    model("a", model("b") | {"extra.weight": torch.ones(1)})
    with pytest.raises(RecipeError, match=r"recipe.yml:3: 'extra.weight' .*from model 1"):
        plan(TEXT + "keep: {extra.*: b}\n")


def test_kinds(model, merged):
    a, b = model("a"), model("b")
    model("a", a | {"steps": torch.tensor(3)})
    model("b", b | {"steps": torch.tensor(5)})
    with pytest.raises(Exception, match="constant"):
        merged(TEXT)["steps"]
    found = merged(TEXT + "kinds: {step*: counter, '*.norm.*': statistic}\n")
    assert found["steps"].item() == 5
    assert found.specs[NORM].kind is Kind.STATISTIC
    assert found.tasks[NORM].rule is Rule.POOL


def test_dtype_of_the_result_and_of_the_arithmetic(tmp_path, merged):
    # 1 + 2**-8 needs one more bit than bfloat16 has; the mean of the two does not
    for name, value in (("a", 1.0), ("b", 1 + 2**-7)):
        save({"w": torch.full((2,), value).bfloat16()}, tmp_path / f"{name}.safetensors")
    text = "method: mean\nmodels: [a.safetensors, b.safetensors]\n"
    found = merged(text)
    assert (found["w"].dtype, found.tasks["w"].working) == (torch.bfloat16, FLOAT32)
    found = merged(text + "dtype: float32\narithmetic: float64\n")
    assert (found["w"].dtype, found.tasks["w"].working) == (torch.float32, FLOAT64)
    assert found["w"][0].item() == 1 + 2**-8


def test_inputs_in_float64_are_merged_in_float64(tmp_path, merged):
    for name in "ab":
        save({"w": torch.tensor([1 / 3], dtype=torch.float64)}, tmp_path / f"{name}.safetensors")
    found = merged("method: mean\nmodels: [a.safetensors, b.safetensors]\narithmetic: float32\n")
    assert found["w"].item() == torch.tensor(1 / 3, dtype=torch.float64).item()


def test_nan_is_refused_or_allowed(model, merged):
    a = model("a")
    model("b", a | {NORM: torch.tensor([torch.nan, 1])})
    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight"):
        merged(TEXT)[NORM]
    found = merged(TEXT + "nonfinite: allow\n")
    assert found[NORM].isnan().tolist() == [True, False]


def test_patterns_that_match_nothing_are_all_named_with_their_lines(model, plan):
    model("a"), model("b")
    text = (
        "method: linear\nmodels:\n"
        '  - {model: a, weight: {"*.mpl.*": 1, "*": 2}}\n'
        '  - model: b\n    weight: {"model.layers.7.*": 1,\n             "*": 2}\n'
        "keep: {lm_heed.*: a}\n"
        "kinds:\n  '*.inv_freq': constant\n"
        'parameters:\n  normalize: {"*.attention.*": true, "*": false}\n'
    )
    with pytest.raises(RecipeError) as caught:
        plan(text)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("has 5 problems:")
    assert [int(line.split("recipe.yml:")[1].split(":")[0]) for line in lines] == [3, 5, 7, 9, 11]
    assert "'lm_head.weight'" in lines[2]  # the closest


def test_a_pattern_of_layers_that_does_not_fit_has_its_line(model, plan):
    model("a"), model("b")
    with pytest.raises(RecipeError, match=r"recipe.yml:3: .*did you mean 'model.layers.\*'"):
        plan(TEXT + 'layers: "model.layer.*"\n')


@pytest.mark.parametrize("base", [None, "zero"])
@pytest.mark.parametrize("dialect", ["ours", "mergekit"])
def test_a_base_that_the_method_can_do_without(model, merged, base, dialect):
    zero, a, b = (model(name, config={}) for name in ("zero", "a", "b"))
    key, of_model, of_all = (
        ("base", "weight: {}", "method")
        if dialect == "ours"
        else ("base_model", "parameters: {{weight: {}}}", "merge_method")
    )
    listed = ", ".join(
        f"{{model: {name}, {of_model.format(weight)}}}" for name, weight in (("a", 1), ("b", 3))
    )
    head = "" if base is None else f"{key}: {base}\n"
    found = merged(f"{of_all}: nuslerp\n{head}models: [{listed}]\n")
    ancestor = None if base is None else zero
    expected = merge([a, b], "nuslerp", base=ancestor, weights=[1, 3])
    other = merge([a, b], "nuslerp", base=zero if base is None else None, weights=[1, 3])
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
    assert not torch.equal(expected[HEAD], other[HEAD])


def test_a_base_of_a_slice_that_the_method_can_do_without(model, merged):
    zero, a, b = (model(name) for name in ("zero", "a", "b"))
    models = "[{model: a, layers: [1, 3], weight: 1}, {model: b, layers: [1, 3], weight: 3}]"
    found = merged(
        f"method: nuslerp\nbase: zero\nslices:\n  - models: {models}\n    base_layers: [1, 3]\n"
    )
    expected = merge([a, b], "nuslerp", base=zero, weights=[1, 3])
    for ours, theirs in zip(layers_of("ln", 2), layers_of("ln")[1:], strict=True):
        assert torch.equal(found[ours], expected[theirs])


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS.keys())
def test_every_method_does_from_a_recipe_what_it_does_from_python(row, model, merged):
    names = ["a", "b", "c"][: row.models or 3]
    tensors = [model(name) for name in names]
    head, given = f"method: {row.name}\n", {}
    if Need.BASE in row.needs:
        head, given = head + "base: zero\n", {"base": model("zero")}
    weights = [0.5, 1.0, 2.0][: len(names)] if Need.WEIGHTS in row.needs else None
    listed = [
        f"  - {{model: {name}" + (f", weight: {weights[k]}}}" if weights else "}")
        for k, name in enumerate(names)
    ]
    found = merged("\n".join([head + "models:", *listed, ""]))
    expected = merge(tensors, row.name, weights=weights, **given)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
