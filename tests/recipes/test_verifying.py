"""Verifying finds whatever has changed in a result, its inputs or its record."""

import json
from pathlib import Path

import pytest
import torch

import conjoin.recipes.plan
from conjoin.checkpoints import save
from conjoin.errors import CheckpointError, RecipeError
from conjoin.recipes import make_plan, recipe_from, run_plan, verify
from conjoin.recipes.verifying import read_record

TEXT = "method: linear\nmodels:\n  - {model: a, weight: 1}\n  - {model: b, weight: 3}\n"


@pytest.fixture
def out(model, made, tmp_path):
    model("a"), model("b")
    made(TEXT)
    return tmp_path / "out"


def flip(path, name):
    """Change one bit of the data of a tensor, and nothing else that can be seen."""
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    data[8 + length + header[name]["data_offsets"][0]] ^= 1
    path.write_bytes(bytes(data))


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_result_that_fits(out):
    verdict = verify(out)
    assert (verdict.wrong, verdict.notes) == ((), ())
    assert (len(verdict.tensors), verdict.of) == (12, 12)


def test_samples_are_drawn_by_the_seed(out):
    drawn = [verify(out, samples=4, seed=seed).tensors for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {len(names) for names in drawn} == {4}


def test_a_flipped_bit_of_the_result(out):
    flip(out / "model.safetensors", "model.norm.weight")
    assert verify(out, samples=None).wrong == (
        "'model.norm.weight': 1 of 2 elements differ from what is computed",
        "'model.norm.weight': its bytes are not those that were written",
    )


def test_a_flipped_bit_of_an_input(out, tmp_path):
    flip(tmp_path / "b" / "model.safetensors", "model.norm.weight")
    wrong = verify(out, samples=None).wrong
    assert len(wrong) == 2
    assert wrong[0].startswith("'model.norm.weight': 1 of 2 elements differ")
    assert wrong[1].startswith("'model.norm.weight' of model 1")


def test_another_input(out, model, tmp_path):
    save(model("b"), tmp_path / "b" / "model.safetensors", overwrite=True, metadata={"x": "y" * 9})
    wrong = verify(out).wrong
    assert [text.split(":")[1].split(" was")[0] for text in wrong] == [" its bytes", " its header"]
    model("b", layers=4)
    with pytest.raises(RecipeError, match="different tensors"):
        verify(out)


def test_an_input_in_more_files(out, model, tmp_path):
    tensors = model("b")
    folder = tmp_path / "b"
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, (name, tensor) in enumerate(tensors.items(), start=1):
        file = f"model-{number:05}-of-{len(tensors):05}.safetensors"
        save({name: tensor}, folder / file)
        weight_map[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (wrong,) = verify(out).wrong
    assert wrong == "the input b has changed: its number of files was 1 and is 13"  # and the index


def test_a_changed_recipe(out):
    def change(record):
        record["recipe_text"] = TEXT.replace("weight: 3", "weight: 4")

    edit(out / "conjoin.json", change)
    wrong = verify(out).wrong
    assert "the recipe's text and what the record says of it differ" in wrong
    assert any("elements differ" in text for text in wrong)


def test_a_changed_record(out):
    def change(record):
        record["outputs"]["lm_head.weight"] = "0" * 16

    edit(out / "conjoin.json", change)
    (wrong,) = verify(out).wrong
    assert wrong == "'lm_head.weight': its bytes are not those that were written"


def test_a_missing_or_reshaped_tensor(out, model):
    tensors = dict(model("a"))
    del tensors["lm_head.weight"]
    tensors["model.norm.weight"] = torch.ones(7)
    tensors["extra"] = torch.ones(1)
    save(tensors, out / "model.safetensors", overwrite=True)
    wrong = verify(out).wrong
    assert "'lm_head.weight' is missing" in wrong
    assert "'extra' is not in what the recipe gives" in wrong
    assert any(text.startswith("'model.norm.weight' is (7,) torch.float32") for text in wrong)


def test_it_can_be_moved_with_its_inputs(out, tmp_path):
    whole = tmp_path / "moved"
    whole.mkdir()
    for name in ("a", "b", "out"):
        (tmp_path / name).rename(whole / name)
    assert not verify(whole / "out").wrong
    (whole / "a").rename(whole / "c")
    with pytest.raises(RecipeError, match="/moved/a"):
        verify(whole / "out")


def test_a_result_elsewhere_than_its_recipe(model, plan, tmp_path, monkeypatch):
    model("a"), model("b")
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path / "results")
    made = plan(TEXT)
    run_plan(made, Path("out"))
    monkeypatch.chdir(tmp_path)
    assert not verify(Path("results/out")).wrong


def test_one_file(model, tmp_path, recipe):
    model("a"), model("b")
    out = tmp_path / "x.safetensors"
    run_plan(make_plan(recipe(TEXT), single=out.name), out)
    assert not verify(out).wrong
    flip(out, "lm_head.weight")
    assert len(verify(out).wrong) == 2


@pytest.mark.parametrize("method", ["slerp", "ties", "dare_linear", "dare_ties"])
def test_methods_with_summaries_and_random_numbers(model, tmp_path, method):
    model("a"), model("b"), model("zero")
    base = {} if method == "slerp" else {"base": "zero"}
    recipe = recipe_from(
        {"method": method, "models": ["a", "b"], "seed": 5, **base}, folder=tmp_path
    )
    run_plan(make_plan(recipe), tmp_path / "out")
    assert not verify(tmp_path / "out", samples=None).wrong


def test_what_has_no_record(out, model, tmp_path):
    with pytest.raises(CheckpointError, match="only results of conjoin merge"):
        verify(tmp_path / "a")
    for content in ("not json", "[]", "{}", '{"recipe_text": 3}'):
        (out / "conjoin.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"conjoin\.json"):
            read_record(out)


def test_another_torch_is_told(out):
    edit(out / "conjoin.json", lambda record: record["made_by"].update(torch="1.0"))
    assert verify(out).notes == ("made with another version of torch, which may round otherwise",)


def test_the_compiled_part_or_its_absence_is_told(out, monkeypatch):
    before = conjoin.recipes.plan.load_library() is not None
    monkeypatch.setattr(
        conjoin.recipes.plan, "load_library", (lambda: None) if before else (lambda: "one")
    )
    verdict = verify(out)
    assert verdict.wrong == ()  # no sums over tensors are in it
    assert len(verdict.notes) == 1
    assert "compiled part" in verdict.notes[0]
