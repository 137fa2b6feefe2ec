"""A plan is known from headers, and its hash says whether two runs give the same bytes."""

import json
import os
from pathlib import Path

import pytest
import torch

from conjoin.checkpoints import save
from conjoin.checkpoints.safetensors_file import SafetensorsFile
from conjoin.errors import RecipeError
from conjoin.recipes import make_plan, read_recipe, recipe_from

LINEAR = """\
method: linear
models:
  - {model: a, weight: 0.3}
  - {model: b, weight: 0.7}
"""


@pytest.fixture
def both(model):
    return model("a"), model("b")


def test_no_tensor_is_read(both, plan, monkeypatch):
    def fail(*arguments):
        raise AssertionError("data were read")

    for name in ("read", "__getitem__"):
        monkeypatch.setattr(SafetensorsFile, name, fail)
    made = plan("method: ties\nbase: a\nmodels: [a, b]\n")
    made.describe(), made.hash, made.read_bytes
    with pytest.raises(AssertionError, match="data were read"):  # the spy works
        made.merged["lm_head.weight"]


def test_a_record_says_how_a_tensor_is_made_and_where_it_goes(both, plan, tmp_path):
    made = plan(LINEAR)
    records = {record.name: record for record in made.records()}
    assert list(records) == list(both[0])
    one = records["model.layers.1.mlp.up.weight"]
    assert (one.rule, one.method) == ("method", "linear")
    assert one.sources == ((0, one.name), (1, one.name))
    assert (one.weights, one.parameters) == ((0.3, 0.7), {"normalize": True})
    assert (one.shape, one.dtype, one.arithmetic) == ((2, 2), "float32", "float32")
    assert one.end - one.begin == 16
    # the ranges fill the data of the file
    (file,) = made.layout.files
    ranges = sorted((record.begin, record.end) for record in records.values())
    assert ranges[0][0] == len(file.header)
    assert [end for _, end in ranges] == [*(begin for begin, _ in ranges[1:]), file.size]


def test_ties_are_one_tensor(model, plan):
    a = model("a")
    a = model("a", a | {"lm_head.weight": a["model.embed_tokens.weight"]})
    made = plan("method: mean\nmodels: [a, a]\n")
    records = {record.name: record for record in made.records()}
    head, embed = records["lm_head.weight"], records["model.embed_tokens.weight"]
    assert head.tied_to == embed.name
    assert (head.begin, head.end) == (embed.begin, embed.end)
    own = {id(tensor): tensor.numel() for tensor in a.values()}
    assert made.read_bytes == 2 * 4 * sum(own.values())


def test_what_is_read_and_how_often(model, plan, both):
    nbytes = 4 * sum(tensor.numel() for tensor in both[0].values())
    model("zero")
    assert (plan(LINEAR).read_bytes, plan(LINEAR).passes) == (2 * nbytes, 1)
    ties = plan("method: ties\nbase: zero\nmodels: [a, b]\n")
    assert (ties.read_bytes, ties.passes) == (3 * nbytes, 2)
    kept = plan("method: mean\nmodels: [a, b]\nkeep: {'*': a}\n")
    assert (kept.read_bytes, kept.passes) == (nbytes, 1)


def test_shards(both, plan):
    made = plan(LINEAR + "output: {shard_size: 60 B}\n")
    count = len(made.layout.files)
    assert count > 2
    assert made.layout.files[0].name == f"model-00001-of-{count:05}.safetensors"
    assert {r.file for r in made.records()} == {file.name for file in made.layout.files}
    assert [f.name for f in plan(LINEAR, single="x.safetensors").layout.files] == ["x.safetensors"]


SAME = [
    # order of keys, long forms, numbers, comments, defaults
    "models: [{weight: 0.3, model: a}, {weight: 0.7, model: b}]\nmethod: linear  # the same\n",
    LINEAR + "seed: 0\nnonfinite: refuse\nonly_some: refuse\nparameters: {normalize: true}\n",
    LINEAR.replace("0.3", "3e-1").replace("model: b", "model: b, name: second"),
    LINEAR.replace("0.3", '{"*": 0.3, "*.mlp.*": 9}'),  # the second rule is never reached
]


@pytest.mark.parametrize("text", SAME)
def test_recipes_that_mean_the_same_have_one_hash(both, plan, text):
    assert plan(text).hash == plan(LINEAR).hash


OTHERS = [
    LINEAR.replace("0.3", "0.30000001"),
    LINEAR + "seed: 1\n",
    LINEAR + "dtype: bfloat16\n",
    LINEAR + "arithmetic: float64\n",
    LINEAR + "nonfinite: allow\n",
    LINEAR + "keep: {lm_head.*: a}\n",
    LINEAR + "kinds: {lm_head.*: constant}\n",
    LINEAR + "parameters: {normalize: false}\n",
    LINEAR + "output: {shard_size: 60}\n",
    LINEAR + "output: {metadata: {note: x}}\n",
    "method: linear\nmodels: [{model: b, weight: 0.7}, {model: a, weight: 0.3}]\n",
    "method: mean\nmodels: [a, b]\n",
]


@pytest.mark.parametrize("text", OTHERS)
def test_recipes_that_mean_something_else_have_another(both, plan, text):
    assert plan(text).hash != plan(LINEAR).hash


def test_a_recipe_may_have_another_name_or_be_made_in_python(both, plan, recipe, tmp_path):
    expected = plan(LINEAR).hash
    assert make_plan(recipe(LINEAR, "other.yaml")).hash == expected
    listed = [{"model": "a", "weight": 0.3}, {"model": "b", "weight": 0.7}]
    made = recipe_from({"method": "linear", "models": listed}, folder=tmp_path)
    assert make_plan(made).hash == expected


def test_the_place_from_which_it_is_seen_changes_nothing(both, plan, tmp_path, monkeypatch):
    expected = plan(LINEAR)
    monkeypatch.chdir(tmp_path)
    assert make_plan(read_recipe("recipe.yml")).hash == expected.hash


def test_every_change_of_an_input_is_another_plan(both, plan, tmp_path):
    path = tmp_path / "b" / "model.safetensors"
    seen = {plan(LINEAR).hash}
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    seen.add(plan(LINEAR).hash)
    save(both[1], path, overwrite=True, metadata={"note": "x"})  # another header
    seen.add(plan(LINEAR).hash)
    before = path.stat()
    save(both[1], path, overwrite=True, metadata={"note": "y"})  # size and time put back
    os.utime(path, ns=(0, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    seen.add(plan(LINEAR).hash)
    assert len(seen) == 4


def test_another_config_that_goes_along_is_another_plan(model, plan, tmp_path):
    model("a", config={"x": 1}), model("b")
    before = plan(LINEAR).hash
    (tmp_path / "a" / "config.json").write_text('{"x": 2}')
    assert plan(LINEAR).hash != before


def test_a_description_is_json(both, plan):
    described = plan(LINEAR).describe()
    assert json.loads(json.dumps(described))["recipe"] == plan(LINEAR).recipe.canonical()
    assert described["torch"] == torch.__version__


def test_notes(model, plan):
    tensors = {f"bn.{n}": torch.ones(2) for n in ("weight", "running_mean", "running_var")}
    model("a", tensors), model("b", tensors)
    (note,) = plan(LINEAR).notes
    assert "BatchNorm statistics are pooled" in note


def test_all_errors_at_once(model, plan):
    a = model("a")
    model("b", {**a, "lm_head.weight": torch.ones(5, 2)})
    text = LINEAR + "keep: {nothing.*: a}\n"
    with pytest.raises(RecipeError) as caught:
        plan(text)
    found = str(caught.value)
    assert "has 2 problems" in found
    assert "recipe.yml:2: " in found
    assert "shapes" in found
    assert "recipe.yml:5: " in found


def test_paths_with_variables(both, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS", str(tmp_path))
    made = plan(LINEAR.replace("model: a", "model: $MODELS/a"))
    assert made.opened.files[0] == (Path(tmp_path, "a", "model.safetensors"),)
