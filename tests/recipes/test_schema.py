"""The schema says what the reader says, as far as a schema can."""

from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.errors import RecipeError
from conjoin.methods import METHODS, Need
from conjoin.recipes import recipe_from, recipe_schema
from conjoin.recipes.parameters import parameter_forms
from conjoin.recipes.scalar_forms import Choice, Number

SCHEMA = recipe_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

VALID = [
    "{method: mean, models: [a, b]}",
    "{method: linear, models: [a, {model: b, name: c, weight: 3}], parameters: {weight: 1}}",
    "{method: ties, base: {model: o}, models: [a], parameters: {density: {'*.w': [0, 1], '*': 0}}}",
    "{method: slerp, models: [a, b], parameters: {t: {gradient: [0, 1], before: 0.5}}}",
    "{method: passthrough, slices: [{models: [{model: a, layers: [0, 3]}]}], dtype: bfloat16}",
    "{method: mean, models: [a], keep: {x: 0, y: a}, kinds: {z: weight}, seed: 3, layers: 'h.*'}",
    "{method: mean, models: [a], output: {shard_size: 5 GB, format: torch, metadata: {a: b}}}",
    "{method: mean, models: [a], output: {shard_size: 1000}, only_some: drop, nonfinite: allow}",
]

# One of each class of mistake that a schema can see.
INVALID = [
    "{models: [a]}",
    "{method: maen, models: [a]}",
    "{method: mean}",
    "{method: mean, models: []}",
    "{method: mean, models: a}",
    "{method: mean, models: [a], slices: [{models: [a]}]}",
    "{method: mean, models: [1]}",
    "{method: mean, models: [{name: a}]}",
    "{method: mean, models: [{model: a, nmae: b}]}",
    "{method: mean, models: [a], sed: 1}",
    "{method: mean, models: [a], seed: -1}",
    "{method: mean, models: [a], seed: 1.5}",
    "{method: mean, models: [a], dtype: int8}",
    "{method: mean, models: [a], kinds: {a: wieght}}",
    "{method: mean, models: [a], keep: {x: [a]}}",
    "{method: mean, models: [a], keep: {x: -1}}",
    "{method: mean, models: [a], output: {shard_size: 5 XB}}",
    "{method: mean, models: [a], output: {shard: 5 GB}}",
    "{method: mean, models: [a], parameters: {weight: 1}}",
    "{method: linear, models: [a], parameters: {weight: true}}",
    "{method: linear, models: [a], parameters: {weight: '1'}}",
    "{method: linear, models: [a], parameters: {weight: [1]}}",
    "{method: linear, models: [a], parameters: {weight: {}}}",
    "{method: linear, models: [a], parameters: {weight: {gradient: [0, 1], befor: 1}}}",
    "{method: linear, models: [a], parameters: {weight: null}}",
    "{method: linear, models: [a], parameters: {normalize: 1}}",
    "{method: linear, models: [a], parameters: {normlize: true}}",
    "{method: linear, models: [a], parameters: {density: 0.5}}",
    "{method: ties, base: o, models: [a], parameters: {density: 20}}",
    "{method: ties, base: o, models: [a], parameters: {elect: summ}}",
    "{method: ties, base: o, models: [a], parameters: {elect: [sum, count]}}",
    "{method: ties, base: o, models: [{model: a, per: tensor}]}",
    "{method: passthrough, slices: [{models: [{model: a, layers: [0]}]}]}",
    "{method: passthrough, slices: [{modles: [a]}]}",
]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", VALID)
def test_what_the_reader_takes_is_valid(text: str):
    data = yaml.safe_load(text)
    recipe_from(data)
    VALIDATOR.validate(data)


@pytest.mark.parametrize("text", INVALID)
def test_what_is_not_valid_the_reader_refuses(text: str):
    data = yaml.safe_load(text)
    with pytest.raises(RecipeError):
        recipe_from(data)
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_and_parameter_is_in_it(name: str):
    method = METHODS[name]
    data: dict[str, Any] = {"method": name, "models": ["a", "b"]}
    for parameter, default in method.defaults.items():
        VALIDATOR.validate({**data, "parameters": {parameter: default}})
        VALIDATOR.validate({**data, "parameters": {parameter: {"*.weight": default}}})
    weighted = {**data, "parameters": {"weight": 1}}
    assert VALIDATOR.is_valid(weighted) == (Need.WEIGHTS in method.needs)
    assert not VALIDATOR.is_valid({**data, "parameters": {"no_such_parameter": 1}})


def test_a_parameter_of_several_methods_takes_what_any_of_them_takes():
    shared = parameter_forms(None)
    for method in METHODS.values():
        for name, form in parameter_forms(method).items():
            any_of, own = shared[name].scalar, form.scalar
            assert type(any_of) is type(own)
            if isinstance(own, Choice):
                assert set(own.options) <= set(any_of.options)
            if isinstance(own, Number):
                assert any_of.low <= own.low
                assert own.high <= any_of.high


WORDS = """
    method base models parameters keep kinds only_some layers slices arithmetic dtype nonfinite
    seed output model name weight density align entry base_layers gradient before after
    shard_size files_from metadata merge_method base_model sources layer_range filter value
    out_dtype tokenizer_source modules t scale per * h.*
"""
KEYS = st.sampled_from(WORDS.split())
SINGLE = st.sampled_from(
    ["ties", "linear", "mean", "slerp", "a", "b", "base", "5 GB", "weight", "float32", "keep", ""]
) | st.sampled_from([None, True, False, 0, 1, 2, -1, 0.5, 1e300, float("inf"), float("nan")])
ANYTHING = st.recursive(
    SINGLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
START = st.sampled_from(
    [
        {},
        {"method": "linear", "models": ["a", "b"]},
        {"method": "ties", "base": "o", "models": ["a", {"model": "b"}]},
        {"method": "linear", "slices": [{"models": [{"model": "a", "layers": [0, 2]}]}]},
        {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]},
        {"merge_method": "slerp", "base_model": "a", "models": [{"model": "a"}, {"model": "b"}]},
        {"merge_method": "passthrough", "slices": [{"sources": []}]},
    ]
)


@settings(deadline=None, max_examples=300)
@given(START, st.dictionaries(KEYS, ANYTHING, max_size=3))
def test_any_data_is_a_recipe_or_a_recipe_error(start: dict[str, Any], more: dict[str, Any]):
    data = {**start, **more}
    try:
        recipe = recipe_from(data)
    except RecipeError:
        return
    recipe.canonical()
    if "merge_method" not in data:
        VALIDATOR.validate(data)
