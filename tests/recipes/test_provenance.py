"""A result says how it was made, for readers and for programs."""

import json
import re

import pytest
import torch
import yaml

import conjoin
from conjoin.checkpoints import MemoryCheckpoint
from conjoin.recipes import Options, make_plan, recipe_from, run_plan
from conjoin.recipes.provenance import combined, model_card, to_json

TEXT = """\
# a comment
method: task_arithmetic
base: zero
models:
  - {model: a, weight: 0.5}
"""


@pytest.fixture
def written(model, made, tmp_path):
    model("a"), model("zero", config={"k": 1})
    made(TEXT)
    return tmp_path / "out"


def record_of(folder):
    return json.loads((folder / "conjoin.json").read_text())


def test_the_record(written, plan):
    record = record_of(written)
    assert record["plan"] == plan(TEXT).hash
    assert record["recipe_text"] == TEXT
    assert record["recipe_folder"] == "."
    assert record["made_by"]["conjoin"] == conjoin.__version__
    assert [(one["model"], one["role"]) for one in record["inputs"]] == [
        ("a", "model"),
        ("zero", "base"),
    ]
    assert record["inputs"][0]["files"][0]["name"] == "model.safetensors"
    assert list(record["outputs"]) == list(plan(TEXT).merged)
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in record["outputs"].values())
    assert list(record["inputs"][0]["tensors"]) == list(plan(TEXT).merged)


def test_equal_inputs_have_equal_digests_and_others_have_not(model, made, tmp_path):
    a, other = model("a"), model("b")
    name = "lm_head.weight"
    model("zero", a | {name: other[name]})
    made(TEXT)
    one, base = (found["tensors"] for found in record_of(tmp_path / "out")["inputs"])
    assert {key for key in one if one[key] != base[key]} == {name}


@pytest.mark.parametrize("file", ["conjoin.json", "README.md", "config.json"])
def test_no_path_of_this_machine_is_written(written, tmp_path, file):
    text = (written / file).read_text()
    for part in (str(tmp_path), tmp_path.name, "/tmp", "/home", "/root"):
        assert part not in text


def test_nor_in_notes_of_a_recipe_of_another_tool(model, made, tmp_path):
    model("a"), model("zero", config={"k": 1})
    made(
        "merge_method: linear\nmodels:\n"
        "  - {model: a, parameters: {weight: 1, density: 1}}\n"
        "  - {model: zero, parameters: {weight: 1}}\n"
    )
    text = (tmp_path / "out" / "conjoin.json").read_text()
    assert "density" in json.loads(text)["notes"][0]
    assert str(tmp_path) not in text


def test_nor_where_models_lie_that_are_far_from_the_result(model, plan, tmp_path):
    model("a"), model("zero")
    out = tmp_path / "results" / "of" / "today"
    out.mkdir(parents=True)
    run_plan(plan(TEXT), out / "merged")
    text = (out / "merged" / "conjoin.json").read_text()
    assert json.loads(text)["recipe_folder"] == "../../.."
    assert tmp_path.name not in text


def test_the_header_says_it_too(written):
    found = conjoin.open_checkpoint(written)
    assert found.metadata["conjoin.method"] == "task_arithmetic"


def test_the_same_run_writes_the_same_bytes(written, made, tmp_path):
    made(TEXT, "again", Options(threads=3))
    for name in ("conjoin.json", "model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (written / name).read_bytes()


def front_matter(card):
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card(written):
    head, body = front_matter((written / "README.md").read_text())
    assert head == {"tags": ["merge", "conjoin"], "library_name": "transformers"}
    assert body.lstrip().startswith("# out\n")
    assert "arXiv:2212.04089" in body
    assert "| base | `zero` |" in body
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
    assert recipe == TEXT


def test_models_of_the_hub_are_the_family(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "model").mkdir()
    one = MemoryCheckpoint({"w": torch.ones(1)})
    names = ["org/name@main", "hf://other/name+org/lora", "local/model", "./org/name", "a.pt"]
    recipe = recipe_from({"method": "mean", "models": [*names, "org/name"]}, folder=tmp_path)
    plan = make_plan(recipe, given=dict.fromkeys([*names, "org/name"], one))
    head, _ = front_matter(model_card(plan, tmp_path / "out"))
    assert head["base_model"] == ["org/name", "other/name"]
    assert head["base_model_relation"] == "merge"


def test_a_recipe_from_python_is_written_as_yaml(model, tmp_path):
    model("a")
    recipe = recipe_from({"method": "mean", "models": ["a", "a"]}, folder=tmp_path)
    assert yaml.safe_load(recipe.text) == {"method": "mean", "models": ["a", "a"]}


def test_digests_of_parts():
    assert combined(["a", "b"]) != combined(["b", "a"])
    assert combined(["a", None]) is None
    assert combined(["a"]) == combined(["a"])


def test_json_is_utf8_and_ends_in_a_line():
    assert to_json({"name": "ü"}) == '{\n "name": "ü"\n}\n'.encode()
