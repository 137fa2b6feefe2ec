"""Tokenizers in recipes of mergekit."""

import json

import pytest
import torch
from token_models import by_token, tokenizer, write

from conjoin.errors import RecipeError
from conjoin.recipes import make_plan, read_recipe, run_plan

EMBED = "model.embed_tokens.weight"
MERGEKIT = """
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
dtype: float32
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tokenizer_source: union", ("union", {}, 1)),
        ("tokenizer_source: base", ("base", {}, 1)),
        ("tokenizer_source: b", (1, {}, 1)),
        ("tokenizer_source: model:b", (1, {}, 1)),
        ("tokenizer_source: c", ({"model": "c", "align": None, "entry": None}, {}, 1)),
        ("tokenizer: {source: {model: a}}", (0, {}, 1)),
        ("tokenizer: {pad_to_multiple_of: 8}", ("union", {}, 8)),
        (
            "tokenizer: {source: base, tokens: {<x>: {source: a}, <y>: {source: {kind: zero}}, "
            "<z>: {source: {kind: model_token, model: b, token: v}, force: true}, "
            "<w>: {source: {kind: model_token, model: {model: {path: a}}, token_id: 1}}, "
            "<v>: {force: false}}}",
            (
                "base",
                {
                    "<x>": [0, None, False],
                    "<y>": [None, None, False],
                    "<z>": [1, "v", True],
                    "<w>": [0, 1, False],
                    "<v>": None,
                },
                1,
            ),
        ),
    ],
)
def test_recipes_of_mergekit(tmp_path, text, expected):
    path = tmp_path / "recipe.yml"
    path.write_text(MERGEKIT + text)
    said = read_recipe(path).canonical()["vocabulary"]
    assert (said["of"], said["tokens"], said["multiple"]) == expected
    path.write_text(MERGEKIT)
    assert read_recipe(path).canonical()["vocabulary"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokenizer_source: base\ntokenizer: {source: base}", "say the same; leave out one"),
        ("tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}", "needs one of `tok"),
        ("tokenizer: {sauce: base}", "unknown key 'sauce'"),
        ("tokenizer: {pad_to_multiple_of: 10000000000}", "a whole number from 1 to 65536"),
        ("tokenizer: {pad_to_multiple_of: 0}", "a whole number from 1 to 65536"),
        ('tokenizer: {tokens: {"": {source: a}}}', "is no text that a file can hold"),
    ],
)
def test_recipes_of_mergekit_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "recipe.yml"
    path.write_text(MERGEKIT + text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_of_several_models_mergekit_prefers_its_base(tmp_path):
    write(tmp_path, "a", "u")
    b = write(tmp_path, "b", "uv")
    c = write(tmp_path, "c", "uv")
    path = tmp_path / "recipe.yml"
    path.write_text(
        "merge_method: linear\nbase_model: c\ntokenizer_source: union\nmodels:\n"
        "- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 1}}\n"
        "- {model: c, parameters: {weight: 1}}\n"
    )
    found = make_plan(read_recipe(path)).merged[EMBED][1]
    torch.testing.assert_close(found, (b[EMBED][1] + 2 * c[EMBED][1]) / 3)


def test_the_tokenizer_of_a_model_that_is_not_merged(tmp_path):
    base = by_token(write(tmp_path, "base", "uv"), "uv")
    a = by_token(write(tmp_path, "a", "uvw"), "uvw")
    b = by_token(write(tmp_path, "b", "uv", spare=2), "uv")
    (tmp_path / "other").mkdir()  # it has no weights, which are not needed
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer("wxu", ["<e>"])))
    (tmp_path / "recipe.yml").write_text(MERGEKIT + "tokenizer_source: other")
    plan = make_plan(read_recipe(tmp_path / "recipe.yml"))
    zero = torch.zeros(3)  # of tokens that no model has, as in mergekit
    expected = torch.stack([a["w"], zero, a["u"] + b["u"] - base["u"], zero])
    torch.testing.assert_close(plan.merged[EMBED], expected)
    assert "the tokenizer is that of other" in plan.notes
    assert any(note.endswith("4 tokens in 4 rows, those of other") for note in plan.notes)
    run_plan(plan, tmp_path / "merged")
    written = json.loads((tmp_path / "merged" / "tokenizer.json").read_text())
    assert written == tokenizer("wxu", ["<e>"])
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config == {"model_type": "llama", "vocab_size": 4}


def test_a_tokenizer_that_is_not_there(tmp_path):
    for name in ("base", "a", "b"):
        write(tmp_path, name, "uv")
    path = tmp_path / "recipe.yml"
    for said in ("org/other", "model:org/other"):
        path.write_text(MERGEKIT + f"tokenizer_source: {said}")
        with pytest.raises(RecipeError, match="'org/other' is none of the models .* download the"):
            make_plan(read_recipe(path))
