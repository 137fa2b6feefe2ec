"""Models whose tensors fit together, and are not of one kind."""

import json

import pytest
import torch

from conjoin.checkpoints import save
from conjoin.errors import RecipeError
from conjoin.recipes import Options, make_plan, recipe_from, run_plan

CONFIG = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "rope_theta": 1e4,
    "vocab_size": 4,
    "transformers_version": "5.0",
}


def _model(folder, name, config=(), tokens="abcd", tensors=None):
    path = folder / name
    path.mkdir()
    rows = torch.ones(len(tokens), 2)
    given = tensors or {"model.embed_tokens.weight": rows, "model.norm.weight": torch.ones(2)}
    save(given, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**CONFIG, **dict(config)}))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return name


def _plan(folder, models=("a", "b"), **more):
    return make_plan(recipe_from({"method": "mean", "models": list(models), **more}, folder=folder))


def test_of_one_kind_there_is_nothing_to_tell(tmp_path):
    _model(tmp_path, "a")
    _model(tmp_path, "b", {"transformers_version": "4.0", "attention_dropout": 0.1})
    assert [note.partition(" (")[0] for note in _plan(tmp_path).notes] == [
        "config, tokenizer and the like"
    ]


def test_numbers_of_heads_have_to_be_one(tmp_path):
    _model(tmp_path, "a")
    _model(tmp_path, "b", {"num_attention_heads": 8})
    with pytest.raises(
        RecipeError, match=r"model 1 \(b\) .* num_attention_heads is 8, and 4 there"
    ):
        _plan(tmp_path)
    inner = {"text_config": {"num_attention_heads": 4}}, {"text_config": {"num_attention_heads": 2}}
    _model(tmp_path, "c", inner[0])
    _model(tmp_path, "d", inner[1])
    with pytest.raises(RecipeError, match=r"text_config.num_attention_heads is 2, and 4 there"):
        _plan(tmp_path, "cd")
    # One model for each tensor: nothing is mixed.
    assert _plan(tmp_path, "a", method="passthrough")


def test_what_may_be_wanted_is_told(tmp_path):
    _model(tmp_path, "a")
    _model(tmp_path, "b", {"rope_theta": 1e6, "sliding_window": 8})
    (*_, note) = _plan(tmp_path).notes
    assert note == (
        "config.json of model 1 (b) differs from that of model 0 (a), which goes along: rope_theta "
        "is 1000000.0, and 10000.0 there; sliding_window is 8, and None there"
    )
    _model(tmp_path, "c", {"model_type": "mistral", "sliding_window": 8})
    (*_, note) = _plan(tmp_path, "ac").notes
    assert note.endswith("goes along: model_type is 'mistral', and 'llama' there")


def test_the_one_whose_files_go_along_is_what_others_are_compared_with(tmp_path):
    for name, theta in zip("abc", (1.0, 2.0, 2.0), strict=True):
        _model(tmp_path, name, {"rope_theta": theta})
    notes = _plan(tmp_path, "bc", base="a", method="task_arithmetic").notes
    told = [note for note in notes if "differs" in note]
    assert [note.partition(" differs")[0] for note in told] == [
        "config.json of model 0 (b)",
        "config.json of model 1 (c)",
    ]
    assert all("that of the base (a)" in note for note in told)
    notes = _plan(tmp_path, "abc", output={"files_from": 1}).notes
    assert [note.partition(" differs")[0] for note in notes if "differs" in note] == [
        "config.json of model 0 (a)"
    ]


def test_tokens_of_other_numbers_are_told(tmp_path):
    _model(tmp_path, "a", tokens="abcd")
    _model(tmp_path, "b", tokens="abdx")
    (*_, note) = _plan(tmp_path).notes
    assert note.startswith(
        "the tokenizer of model 1 (b) has other numbers for 3 tokens than that of model 0 (a), "
        "which goes along: 'c', 'd', 'x'"
    )
    unigram = {
        "model": {"vocab": [["a", -1], ["b", -2]]},
        "added_tokens": [{"content": "</s>", "id": 7}],
    }
    for name, last in (("c", 7), ("d", 8)):
        _model(tmp_path, name)
        unigram["added_tokens"][0]["id"] = last
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(unigram))
    assert "for 1 tokens" in _plan(tmp_path, "cd").notes[-1]
    (tmp_path / "d" / "tokenizer.json").write_text("no JSON")
    assert "tokenizer of" not in _plan(tmp_path, "cd").notes[-1]


def test_factors_of_adapters_are_not_averaged(tmp_path):
    name = "base_model.model.q_proj.lora_A.weight"
    for model in "ab":
        _model(tmp_path, model, tensors={name: torch.ones(2, 2)})
    with pytest.raises(RecipeError, match=r"lora_A.weight' is a factor .* BASE\+ADAPTER"):
        _plan(tmp_path)
    assert _plan(tmp_path, "a", method="passthrough")


def test_quantized_models_are_not_averaged(tmp_path):
    _model(tmp_path, "a")
    _model(tmp_path, "b", {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(RecipeError, match=r"model 1 \(b\) is quantized.*dequantize"):
        _plan(tmp_path)
    assert _plan(tmp_path, "b", method="passthrough")


def test_a_vocabulary_of_another_size_is_written_to_the_config(tmp_path):
    _model(tmp_path, "a")
    _model(tmp_path, "b", {"vocab_size": 6, "text_config": {"vocab_size": 4}}, tokens="abcdef")
    plan = _plan(tmp_path, keep={"*embed_tokens*": 1})
    assert plan.notes[-1].startswith("config.json gets the vocab_size 6 ")
    run_plan(plan, tmp_path / "out", Options(sync=False))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 6
    # Of the one with six rows, nothing is to be changed.
    plan = _plan(tmp_path, keep={"*embed_tokens*": 1}, output={"files_from": 1})
    assert not any("gets the vocab_size" in note for note in plan.notes)
