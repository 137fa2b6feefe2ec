"""mergekit's YAML means what mergekit does with it, but for what it does wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conjoin.methods import MERGEKIT_DEFAULTS, MERGEKIT_IGNORED
from conjoin.recipes import BASE, InLayer, Outside, Recipe, Stack, read_recipe, recipe_from
from conjoin.recipes.mergekit_parameters import OF_A_MODEL, OF_THE_METHOD

few = hypothesis_settings(deadline=None, max_examples=60)

STACK = Stack("model.layers.", tuple(range(100)))


def read(text: str, folder: Path) -> Recipe:
    path = folder / "mergekit.yml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def layer(index: int, count: int) -> InLayer:
    return InLayer(STACK, index, count)


def settings(recipe: Recipe, name: str, where: Any, part: int = 0) -> tuple[Any, dict[str, Any]]:
    found = recipe.settings(recipe.parts[part], name, where)
    return found.weights, dict(found.parameters)


def test_ties_with_gradients_and_filters(tmp_path: Path):
    recipe = read(
        """
models:
  - model: org/base
  - model: org/a
    parameters: {density: [1, 0.5, 0.25], weight: 1.0}
  - model: org/b@v2
    parameters:
      density: 0.5
      weight:
        - {filter: mlp, value: 0.5}
        - {filter: "*", value: 0}
        - {filter: attn, value: 9}
merge_method: ties
base_model: org/base
parameters: {normalize: true, int8_mask: true, lambda: 0.5}
dtype: float16
""",
        tmp_path,
    )
    assert recipe.base is not None
    assert recipe.base.reference == "org/base"
    assert [s.reference for s in recipe.sources] == ["org/a", "org/b@v2"]
    assert recipe.output.files_from == BASE
    assert recipe.dtype.torch is torch.float16
    weights, parameters = settings(recipe, "model.layers.4.mlp.up.weight", layer(4, 9))
    assert weights == (1.0, 0.5)
    # Layer 4 of 9 is at t = 1/2, where the gradient has its middle value.
    assert parameters == {**MERGEKIT_DEFAULTS["ties"], "density": 0.5, "scale": 0.5}
    weights, parameters = settings(recipe, "model.layers.0.attn.q.weight", layer(0, 9))
    assert weights == (1.0, 0.0)
    assert parameters["density"] == (1.0, 0.5)
    assert any("int8_mask" in note for note in recipe.notes)
    assert any("float16" in note for note in recipe.notes)


@pytest.mark.parametrize(
    ("normalize", "merge"), [("true", "weighted"), ("false", "sum"), ("0", "sum")]
)
def test_normalize_of_ties(normalize: str, merge: str, tmp_path: Path):
    recipe = read(
        "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
        f"merge_method: ties\nbase_model: o\nparameters: {{normalize: {normalize}}}\n",
        tmp_path,
    )
    assert settings(recipe, "x", Outside.UNKNOWN)[1]["merge"] == merge


def test_slerp_starts_from_the_base_wherever_it_is_listed(tmp_path: Path):
    text = """
slices:
  - sources:
      - {model: org/a, layer_range: [0, 5]}
      - {model: org/b, layer_range: [0, 5]}
merge_method: slerp
base_model: org/b
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0]}
    - value: 0.5
"""
    recipe = read(text, tmp_path)
    assert recipe.base is None  # slerp has none of ours
    assert recipe.stacked
    uses = recipe.parts[0].uses
    assert [recipe.sources[use.source].reference for use in uses] == ["org/b", "org/a"]
    assert [use.layers for use in uses] == [(0, 5), (0, 5)]
    at = [settings(recipe, "l.self_attn.q", layer(i, 5))[1]["t"] for i in range(5)]
    assert at == [0, 0.5, 0.3, 0.7, 1]
    assert [settings(recipe, "l.mlp.up", layer(i, 5))[1]["t"] for i in (0, 2, 4)] == [1, 0.5, 0]
    assert settings(recipe, "l.norm", layer(3, 5))[1]["t"] == 0.5


def test_slerp_adds_the_base_that_is_not_listed(tmp_path: Path):
    recipe = read(
        "models: [{model: a}]\nmerge_method: slerp\nbase_model: b\nparameters: {t: 0.25}\n",
        tmp_path,
    )
    uses = recipe.parts[0].uses
    assert [recipe.sources[use.source].reference for use in uses] == ["b", "a"]
    assert recipe.output.files_from == 1


def test_stacked_layers(tmp_path: Path):
    recipe = read(
        """
slices:
  - sources: [{model: org/a, layer_range: [0, 24]}]
  - sources: [{model: org/b, layer_range: [20, 40], parameters: {scale: {value: 2, filter: mlp}}}]
  - sources: [{model: org/a, layer_range: [30, 32]}]
    parameters: {scale: 3}
merge_method: passthrough
""",
        tmp_path,
    )
    assert [[(u.source, u.layers) for u in part.uses] for part in recipe.parts] == [
        [(0, (0, 24))],
        [(1, (20, 40))],
        [(0, (30, 32))],
    ]
    assert settings(recipe, "x.mlp", layer(0, 24), 0)[1] == {"scale": 1.0}
    assert settings(recipe, "x.mlp", layer(0, 20), 1)[1] == {"scale": 2.0}
    assert settings(recipe, "x.attn", layer(0, 20), 1)[1] == {"scale": 1.0}
    assert settings(recipe, "x.attn", layer(0, 2), 2)[1] == {"scale": 3.0}
    assert recipe.dtype is None


def test_precedence_source_slice_module_global_default(tmp_path: Path):
    recipe = read(
        """
modules:
  text_decoder:
    slices:
      - sources:
          - {model: o, layer_range: [0, 2]}
          - {model: a, layer_range: [0, 2], parameters: {density: {filter: s0, value: 0.1}}}
        parameters: {density: {filter: s1, value: 0.2}}
    parameters: {density: {filter: s2, value: 0.3}}
parameters: {density: {filter: s3, value: 0.4}, weight: 1}
merge_method: dare_linear
base_model: o
""",
        tmp_path,
    )
    assert recipe.parts[0].base_layers == (0, 2)
    names = ("s0 s1 s2 s3", "s1 s2 s3", "s2 s3", "s3", "none")
    found = [settings(recipe, name, layer(0, 2))[1]["density"] for name in names]
    assert found == [0.1, 0.2, 0.3, 0.4, 1.0]


def test_a_gradient_ends_at_the_head_and_says_so(tmp_path: Path):
    recipe = read(
        "models: [{model: a, parameters: {weight: [0, 1]}}, {model: b, parameters: {weight: 1}}]\n"
        "merge_method: linear\n",
        tmp_path,
    )
    assert settings(recipe, "model.embed_tokens.weight", Outside.BEFORE)[0] == (0.0, 1.0)
    assert settings(recipe, "lm_head.weight", Outside.AFTER)[0] == (1.0, 1.0)  # mergekit: 0
    assert any("its last value" in note for note in recipe.notes)


def test_a_model_twice_counts_twice(tmp_path: Path):
    recipe = read(
        "models: [{model: a, parameters: {weight: 1}}, {model: a, parameters: {weight: 2}}]\n"
        "merge_method: linear\n",
        tmp_path,
    )
    assert settings(recipe, "x", Outside.UNKNOWN)[0] == (1.0, 2.0)
    assert any("listed more than once" in note for note in recipe.notes)


def test_tokenizer_source_and_dtypes(tmp_path: Path):
    text = (
        "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]\n"
        "merge_method: linear\ndtype: float32\nout_dtype: torch.bfloat16\ntokenizer_source: b\n"
    )
    recipe = read(text, tmp_path)
    assert recipe.output.files_from == 0  # mergekit's config is not the tokenizer's model's
    assert recipe.dtype.torch is torch.bfloat16
    assert recipe.vocabulary is not None
    assert recipe.vocabulary.of == 1
    assert any("rows of embeddings without a token are kept" in note for note in recipe.notes)


def test_the_long_form_of_a_model(tmp_path: Path):
    recipe = read(
        "models:\n"
        "  - model: {model: {path: org/a, revision: v1}, lora: {path: org/l, revision: v2}}\n"
        "    parameters: {weight: 1}\n"
        "  - {model: org/b+org/l, parameters: {weight: 1}}\n"
        "merge_method: linear\nparameters:\n",
        tmp_path,
    )
    assert [s.reference for s in recipe.sources] == ["org/a@v1+org/l@v2", "org/b+org/l"]


# mergekit 0.1.5's list.
METHODS_OF_MERGEKIT = (
    *("multislerp", "nearswap", "ram", "ramplus_tl", "sce", "linear", "slerp", "nuslerp"),
    *("passthrough", "model_stock", "arcee_fusion", "karcher", "task_arithmetic", "ties"),
    *("dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"),
)
ONE_MODEL = ("passthrough", "nearswap", "arcee_fusion")
NO_BASE = ("linear", "passthrough", "karcher")


def recipe_of(method: str) -> dict[str, Any]:
    """A recipe with every parameter that mergekit 0.1.5 has for the method."""
    shared = {key: 0.5 if key in ("t", "r", "alpha") else 1 for key in OF_THE_METHOD[method]}
    own = {key: 0.25 if key == "epsilon" else 0.5 for key in OF_A_MODEL[method]}
    names = ("a",) if method in (*ONE_MODEL, "slerp") else ("a", "b")
    base = {} if method in NO_BASE else {"base_model": "o"}
    models = [{"model": name, "parameters": own} for name in names]
    return {"merge_method": method, **base, "models": models, "parameters": shared}


def test_the_methods_are_those_of_mergekit():
    assert set(OF_THE_METHOD) == set(OF_A_MODEL) == set(METHODS_OF_MERGEKIT)
    assert set(MERGEKIT_DEFAULTS) == set(METHODS_OF_MERGEKIT)


@pytest.mark.parametrize("method", METHODS_OF_MERGEKIT)
def test_every_method_reads_with_all_of_its_parameters(method: str, tmp_path: Path):
    recipe = read(yaml.safe_dump(recipe_of(method)), tmp_path)
    assert recipe.method.name == method
    assert (recipe.base is None) == (method in (*NO_BASE, "slerp"))
    weights, parameters = settings(recipe, "x", Outside.UNKNOWN)
    if "weight" in OF_A_MODEL[method]:
        assert weights == (0.5, 0.5)
    # What is not said has mergekit's default, and all is what the method takes.
    assert set(MERGEKIT_DEFAULTS[method]) <= set(parameters)
    recipe.method.check(
        parameters,
        base=recipe.base is not None,
        weights=weights is not None,
        models=len(recipe.sources),
    )
    for key in ("density", "gamma", "scale", "t", "r", "alpha", "select_topk", "max_iter"):
        if key in MERGEKIT_IGNORED.get(method, ()):
            assert any(key in note for note in recipe.notes)
        elif key in OF_A_MODEL[method]:
            assert parameters[key] == 0.5
        elif key in OF_THE_METHOD[method]:
            assert parameters[key] == recipe_of(method)["parameters"][key]


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_a_base_that_may_be_left_out(method: str, base: bool, tmp_path: Path):
    said = "base_model: o\n" if base else ""
    for listed in ("", "{model: o}, "):
        models = HEAD.replace("[", "[" + listed) if base else HEAD
        recipe = read(f"{models}merge_method: {method}\n{said}", tmp_path)
        assert (recipe.base is not None) == base
        assert [source.reference for source in recipe.sources] == ["a", "b"]


HEAD = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"


def reference_value(name: str, setting: Any, t: float) -> Any:
    """What mergekit's rule says of a value, written from its description, for numbers."""
    if isinstance(setting, int | float):
        return setting
    if all(isinstance(part, int | float) for part in setting):
        at = t * (len(setting) - 1)
        low = int(at)
        high = min(len(setting) - 1, low + 1)
        return setting[low] + (at - low) * (setting[high] - setting[low])
    for part in setting:
        if part.get("filter") in (None, "*") or part["filter"] in name:
            return reference_value(name, part["value"], t)
    return None


NUMBER = st.integers(0, 100).map(lambda k: k / 100)
PLAIN = NUMBER | st.lists(NUMBER, min_size=1, max_size=4)
FILTER = st.sampled_from([None, "*", "mlp", "attn", "layers.1", "weight", "[0]"])
CONDITION = st.tuples(PLAIN, FILTER).map(
    lambda pair: {"value": pair[0]} | ({} if pair[1] is None else {"filter": pair[1]})
)
SETTING = PLAIN | st.lists(CONDITION, min_size=1, max_size=4)
NAMES = st.sampled_from(
    [f"model.layers.{i}.{part}.weight" for i in (0, 1, 11) for part in ("mlp", "attn.q", "norm")]
)


@few
@given(
    st.lists(st.tuples(st.none() | SETTING, st.none() | SETTING), min_size=1, max_size=3),
    st.none() | SETTING,
    NAMES,
    st.integers(2, 12).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
)
def test_values_are_those_of_the_reference(
    models: list[Any], shared: Any, name: str, where: tuple[int, int]
):
    index, count = where
    recipe_text = {
        "merge_method": "dare_linear",
        "base_model": "o",
        "models": [
            {
                "model": f"m{i}",
                "parameters": {
                    key: value
                    for key, value in (("density", density), ("weight", weight))
                    if value is not None
                },
            }
            for i, (density, weight) in enumerate(models)
        ],
        "parameters": {"weight": 1.0} | ({} if shared is None else {"density": shared}),
    }
    recipe = recipe_from(yaml.safe_load(yaml.safe_dump(recipe_text)))
    t = index / (count - 1)

    def expected(own: Any, other: Any, default: float) -> float:
        for setting in (own, other):
            found = None if setting is None else reference_value(name, setting, t)
            if found is not None:
                return float(found)
        return default

    weights, parameters = settings(recipe, name, layer(index, count))
    density = parameters["density"]
    densities = density if isinstance(density, tuple) else (density,) * len(models)
    wanted = [(expected(d, shared, 1.0), expected(w, 1.0, 1.0)) for d, w in models]
    assert list(zip(densities, weights, strict=True)) == [pytest.approx(pair) for pair in wanted]


def test_numbers_and_truth_values_as_text(tmp_path: Path):
    text = "models: [{{model: a, parameters: {{weight: {}}}}}]\nmerge_method: linear\n"
    text += "parameters: {{normalize: {}}}\n"
    expected = read(text.format("0.5", "true"), tmp_path)
    for weight, flag in (("'0.5'", "yes"), ('"5e-1"', "'True'"), ("['0.5']", "On")):
        assert read(text.format(weight, flag), tmp_path).canonical() == expected.canonical()
    assert read(text.format("0.5", "no"), tmp_path).canonical() != expected.canonical()
