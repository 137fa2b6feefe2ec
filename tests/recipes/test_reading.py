"""Recipes are read, or refused with every problem and its line."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin.checkpoints import Kind
from conjoin.dtypes import DTYPES, FLOAT64
from conjoin.errors import RecipeError
from conjoin.recipes import BASE, Gradient, read_recipe, recipe_from

FULL = """\
method: ties
base: ../base
models:
  - ../a
  - model: ../b.safetensors
    weight: 0.4
    density: {"*.mlp.*": 0.3, "*": [0, 1]}
    align: b-to-a.safetensors
    entry: ema
parameters:
  weight: 1e-3
  per: tensor
keep: {"classifier.*": a, "head.*": 1, "norm": base}
kinds: {"*.scale_buffer": weight}
only_some: drop
layers: "model.layers.*"
arithmetic: float64
dtype: bfloat16
nonfinite: allow
seed: 7
output: {shard_size: 2.5 GiB, format: torch, files_from: b, metadata: {note: 1, ok: true}}
"""


def read(text: str, folder: Path) -> Any:
    path = folder / "recipe.yml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def problems(text: str, folder: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(text, folder)
    return str(caught.value).replace(str(folder), "").splitlines()


def test_everything(tmp_path: Path):
    recipe = read(FULL, tmp_path)
    assert recipe.method.name == "ties"
    assert [s.reference for s in recipe.sources] == ["../a", "../b.safetensors"]
    assert [s.name for s in recipe.sources] == ["a", "b"]
    assert recipe.base.reference == "../base"
    b = recipe.sources[1]
    assert (b.align, b.entry, b.place.line) == (tmp_path / "b-to-a.safetensors", "ema", 5)
    density = recipe.parts[0].uses[1].values["density"]
    assert [rule.pattern for rule in density.rules] == ["*.mlp.*", "*"]
    assert density.rules[1].value == Gradient((0.0, 1.0))
    assert density.rules[0].place.line == 7
    assert recipe.values["weight"].constant == 0.001
    assert recipe.values["per"].constant == "tensor"
    assert [(k.pattern, k.source) for k in recipe.keep] == [
        ("classifier.*", 0),
        ("head.*", 1),
        ("norm", BASE),
    ]
    assert [(k.pattern, k.kind) for k in recipe.kinds] == [("*.scale_buffer", Kind.WEIGHT)]
    assert (recipe.only_some, recipe.layers, recipe.nonfinite) == (
        "drop",
        "model.layers.*",
        "allow",
    )
    assert (recipe.arithmetic, recipe.dtype, recipe.seed) == (FLOAT64, DTYPES["bfloat16"], 7)
    assert recipe.output.shard_size == 5 * 2**29
    assert (recipe.output.format, recipe.output.files_from) == ("torch", 1)
    assert recipe.output.metadata == {"note": "1", "ok": "true"}
    assert recipe.places["seed"].line == 20
    assert not recipe.stacked
    assert recipe.notes == ()


def test_the_same_from_python():
    data = {
        "method": "linear",
        "models": [Path("a"), {"model": "b", "weight": torch.tensor(0.5)}],
        "parameters": {"weight": 1},
    }
    recipe = recipe_from(data, folder="/x")
    assert recipe.sources[0].reference == "a"
    assert recipe.parts[0].uses[1].values["weight"].constant == 0.5
    with pytest.raises(
        RecipeError, match=r"^models\[1\].weight: expected a number, found the text"
    ):
        recipe_from({**data, "models": ["a", {"model": "b", "weight": "1"}]})
    with pytest.raises(RecipeError, match=r"expected a mapping, a list, text"):
        recipe_from({**data, "seed": object()})


def test_slices(tmp_path: Path):
    recipe = read(
        "method: passthrough\n"
        "slices:\n"
        "  - models: [{model: ../a, layers: [0, 16]}]\n"
        "  - models: [{model: ../b, layers: [8, 24]}]\n"
        "    parameters: {scale: 0.5}\n"
        "  - models: [{model: ../a, layers: [3, 4]}]\n",
        tmp_path,
    )
    assert recipe.stacked
    assert [s.reference for s in recipe.sources] == ["../a", "../b"]  # each once
    assert [[(u.source, u.layers) for u in part.uses] for part in recipe.parts] == [
        [(0, (0, 16))],
        [(1, (8, 24))],
        [(0, (3, 4))],
    ]
    assert recipe.parts[1].values["scale"].constant == 0.5


def test_all_problems_at_once_in_order(tmp_path: Path):
    found = problems(
        "methd: x\n"  # 1
        "method: ties\n"  # 2
        "base: ../base\n"
        "models:\n"
        "  - ../a\n"
        "  - {model: ../b, wieght: 3}\n"  # 6
        "  - {model: ../c, density: 3}\n"  # 7
        "  - {model: ../d, per: tensor}\n"  # 8
        "parameters: {elect: summ}\n"  # 9
        "seed: -1\n",  # 10
        tmp_path,
    )
    assert found[0] == "/recipe.yml has 6 problems:"
    assert [line.split(":")[1] for line in found[1:]] == ["1", "6", "7", "8", "9", "10"]
    assert "did you mean 'method'?" in found[1]
    assert "did you mean 'weight'?" in found[2]
    assert "models[2].density: expected a number from 0 to 1, found the number 3" in found[3]
    assert "one for all models" in found[4]
    assert "did you mean 'sum'?" in found[5]


HEAD = "method: linear\nmodels: [../a, ../b]\n"
TIES = "method: ties\nbase: ../o\nmodels: [../a, ../b]\n"

# text, the only line of the message
WRONG = {
    "method": (
        "method: linaer\nmodels: [a]\n",
        "1: unknown method 'linaer'; did you mean 'linear'",
    ),
    "no method": ("models: [a]\n", "1: a recipe needs the key 'method'"),
    "no models": ("method: mean\n", "1: expected one of `models` and `slices`, found neither"),
    "both": (HEAD + "slices: [{models: [a]}]\n", "1: expected one of .* found both"),
    "not a table": (
        "- a\n- b\n",
        "1: expected a table with `method:` and so on, found a list of 2",
    ),
    "models is text": (
        "method: mean\nmodels: ../a\n",
        "2: models: expected a list of models, found",
    ),
    "empty list": ("method: mean\nmodels: []\n", "2: models: expected .*, found an empty list"),
    "a model is a number": ("method: mean\nmodels: [1]\n", "2: .*between quotes"),
    "a model is null": ("method: mean\nmodels: [~, a]\n", "2: .*found nothing"),
    "no base": ("method: ties\nmodels: [a, b]\n", "1: ties merges changes .* needs `base:`"),
    "base for nothing": (HEAD + "base: ../o\n", "3: linear uses no base"),
    "weights for mean": (
        "method: mean\nmodels: [{model: a, weight: 1}]\n",
        "2: weight: mean takes no",
    ),
    "a weight for one": (
        "method: linear\nmodels: [a, {model: b, weight: 1}]\n",
        "2: this model has no",
    ),
    "weights cancel": (
        "method: linear\nmodels: [{model: a, weight: 1}, {model: b, weight: -1}]\n",
        "2: the weights .* sum to zero",
    ),
    "one for slerp": (
        "method: slerp\nmodels: [a]\n",
        "2: slerp merges exactly 2 models, and here are 1",
    ),
    "bool is a word": (
        HEAD + "parameters: {normalize: yes}\n",
        "3: .*true or false.*the word 'yes'",
    ),
    "number is text": (HEAD + "parameters: {weight: '1'}\n", "3: .*expected a number"),
    "number is a bool": (
        HEAD + "parameters: {weight: true}\n",
        "3: .*expected a number, found true",
    ),
    "nan": (HEAD + "parameters: {weight: .nan}\n", "3: .*has to be finite"),
    "infinite": (HEAD + "parameters: {weight: [0, .inf]}\n", "3: .*has to be finite"),
    "short gradient": (HEAD + "parameters: {weight: [1]}\n", "3: a gradient .* at least 2 numbers"),
    "gradient of words": (TIES + "parameters: {elect: [sum, count]}\n", "4: .*only numbers have"),
    "density of 20": (
        TIES + "parameters: {density: {'*': 20}}\n",
        "4: .*from 0 to 1, found the number 20",
    ),
    "in a gradient": (TIES + "parameters: {density: [0, 1.5]}\n", "4: .*from 0 to 1"),
    "long gradient": (
        HEAD + "parameters: {weight: {gradient: [0, 1], befor: 0}}\n",
        "3: .*'before'",
    ),
    "empty value": (HEAD + "parameters: {weight: {}}\n", "3: .*found an empty table"),
    "no value": (HEAD + "parameters: {weight: }\n", "3: .*found nothing"),
    "parameter outside": (HEAD + "normalize: false\n", "3: normalize: this is a parameter"),
    "dtype": (HEAD + "dtype: bfloat\n", "3: unknown dtype 'bfloat'; did you mean 'bfloat16'"),
    "seed": (HEAD + "seed: 1.5\n", "3: seed: expected a whole number"),
    "kind": (HEAD + "kinds: {a: wieght}\n", "3: unknown kind 'wieght'; did you mean 'weight'"),
    "keep": (HEAD + "keep: {x: c}\n", "3: unknown model 'c'.*Allowed here: a, b"),
    "keep a number": (HEAD + "keep: {x: 2}\n", "3: there is no model 2; they are 0 to 1"),
    "keep the base": (
        HEAD + "keep: {x: base}\n",
        "3: 'base' is chosen, but the recipe has no base",
    ),
    "size": (HEAD + "output: {shard_size: 5 XB}\n", "3: .*a size of at least 1 byte"),
    "named base": ("method: mean\nmodels: [{model: a, name: base}]\n", "2: no model can be called"),
    "same name": (
        "method: mean\nmodels: [{model: a, name: x}, {model: b, name: x}]\nkeep: {k: 0}\n",
        "2: 'x' already is the name of the model",
    ),
    "ambiguous": (
        "method: mean\nmodels: [p/a, q/a]\nkeep: {k: a}\n",
        "3: 'a' could be more than one model",
    ),
    "variable": (
        "method: mean\nmodels: [{model: a, align: $NOT_SET_ANYWHERE/x}]\n",
        "2: the environment variable 'NOT_SET_ANYWHERE'",
    ),
    "layers in models": (
        "method: mean\nmodels: [{model: a, layers: [0, 1]}]\n",
        "2: unknown key 'layers'",
    ),
    "layers reversed": (
        "method: mean\nslices: [{models: [{model: a, layers: [4, 2]}]}]\n",
        "2: .*first < end",
    ),
    "layers of other lengths": (
        "method: mean\n"
        "slices: [{models: [{model: a, layers: [0, 2]}, {model: b, layers: [1, 2]}]}]\n",
        r"2: .*equally many layers, found \[0, 2\], \[1, 2\]",
    ),
    "layers of the base": (
        "method: ties\nbase: o\nslices: [{models: [{model: a, layers: [0, 2]}]}]\n",
        "3: the slice has to say which layers of the base",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_is_one_line_with_its_place(case: str, tmp_path: Path):
    text, message = WRONG[case]
    (line,) = problems(text, tmp_path)
    assert re.match(message, line.removeprefix("/recipe.yml:")), line


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    recipe = read(
        "method: mean\nmodels:\n  - {model: $PLACE/a, align: '${PLACE}/p'}\n"
        "  - {model: b, align: ~/q}\n  - {model: c, align: sub/r}\n",
        tmp_path,
    )
    assert [s.align for s in recipe.sources] == [
        Path("/data/p"),
        Path("/home/me/q"),
        tmp_path / "sub/r",
    ]
    assert recipe.sources[0].reference == "$PLACE/a"  # opening it is someone else's


def test_the_base_may_only_serve_its_files(tmp_path: Path):
    recipe = read(HEAD + "base: ../o\noutput: {files_from: base}\n", tmp_path)
    assert recipe.output.files_from == BASE


def test_problems_before_broken_yaml_are_said_too(tmp_path: Path):
    found = problems("method: mean\nmethod: sum\n---\nb: 1\n", tmp_path)
    assert "2: the key 'method' stands here a second time" in found[1]
    assert "3: a second document starts here" in found[2]
