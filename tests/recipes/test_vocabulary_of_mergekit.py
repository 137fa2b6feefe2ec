"""Tokenizers in recipes of mergekit."""

import pytest
import torch
from token_models import write

from conjoin.errors import RecipeError
from conjoin.recipes import make_plan, read_recipe

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
        ("tokenizer_source: nobody", "'nobody' is none of the models"),
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
