"""Models whose files have no head, since it is the embedding, beside files that have one."""

import json

import pytest
import torch

from conjoin.checkpoints import HeadersOnly, open_checkpoint, save
from conjoin.errors import RecipeError
from conjoin.recipes import Options, make_plan, recipe_from, run_plan

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def write(folder, name, *, head, config=None, rows=5):
    """A model of random numbers; without a head of its own, or with one."""
    generator = torch.Generator().manual_seed(ord(name[0]))
    tensors = {EMBED: torch.randn(rows, 3, generator=generator), NORM: torch.ones(3)}
    if head:
        tensors[HEAD] = torch.randn(rows, 3, generator=generator)
    (folder / name).mkdir()
    save(tensors, folder / name / "model.safetensors")
    (folder / name / "config.json").write_text(json.dumps(config or {}))
    return tensors


def planned(folder, **more):
    return make_plan(recipe_from({"method": "mean", **more}, folder=folder))


def made(folder, **more):
    plan = planned(folder, **more)
    run_plan(plan, folder / "out", Options(sync=False, card=False))
    config = json.loads((folder / "out/config.json").read_text())
    return dict(open_checkpoint(folder / "out")), config, plan.notes


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
@pytest.mark.parametrize("said", [{"tie_word_embeddings": True}, {}])
def test_the_head_of_a_tied_model_is_its_embedding(tmp_path, order, said):
    a = write(tmp_path, "a", head=False, config=said)
    b = write(tmp_path, "b", head=True, config={"tie_word_embeddings": False})
    found, config, notes = made(tmp_path, models=order)
    assert found.keys() == {EMBED, HEAD, NORM}
    torch.testing.assert_close(found[HEAD], (a[EMBED] + b[HEAD]) / 2)
    torch.testing.assert_close(found[EMBED], (a[EMBED] + b[EMBED]) / 2)
    assert config["tie_word_embeddings"] is False
    assert f"model {order.index('a')} (a) is tied: its {HEAD!r} is its {EMBED!r}" in notes


def test_where_all_are_tied_the_config_stays(tmp_path):
    tied = {"tie_word_embeddings": True, "other": 1}
    a = write(tmp_path, "a", head=False, config=tied)
    b = write(tmp_path, "b", head=True, config=tied)
    found, config, _ = made(tmp_path, models=["a", "b"])
    torch.testing.assert_close(found[HEAD], (a[EMBED] + b[HEAD]) / 2)
    assert config == tied


def test_of_changes_from_a_tied_base(tmp_path):
    base = write(tmp_path, "base", head=False, config={"tie_word_embeddings": True})
    b = write(tmp_path, "x", head=True, config={"tie_word_embeddings": False})
    recipe = {"method": "task_arithmetic", "base": "base", "models": ["x"]}
    found, config, notes = made(tmp_path, **recipe, parameters={"weight": 0.5})
    torch.testing.assert_close(found[HEAD], (base[EMBED] + b[HEAD]) / 2)
    assert config["tie_word_embeddings"] is False
    assert any(note.startswith("the base (base) is tied") for note in notes)


@pytest.mark.parametrize("missing", ["config.json", ""])
def test_a_head_that_is_not_tied_is_missing(tmp_path, missing):
    write(tmp_path, "a", head=False, config={"tie_word_embeddings": False})
    write(tmp_path, "b", head=True)
    if missing:
        (tmp_path / "a" / missing).unlink()
    with pytest.raises(RecipeError, match=r"lm_head\.weight"):
        planned(tmp_path, models=["a", "b"])


def test_models_that_are_all_tied_have_no_head(tmp_path):
    write(tmp_path, "a", head=False)
    write(tmp_path, "b", head=False)
    found, config, notes = made(tmp_path, models=["a", "b"])
    assert found.keys() == {EMBED, NORM}
    assert config == {}
    assert not any("tied" in note for note in notes)


def test_a_tied_model_whose_file_has_the_head_too(tmp_path):
    write(tmp_path, "a", head=True, config={"tie_word_embeddings": True})
    write(tmp_path, "b", head=True, config={"tie_word_embeddings": False})
    for order in (["a", "b"], ["b", "a"]):
        plan = planned(tmp_path, models=order)
        assert plan.opened.untied
        assert not any("is tied" in note for note in plan.notes)
    assert planned(tmp_path, models=["a", "a"]).opened.untied is False


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_torch_files_have_a_tied_head_under_both_names(tmp_path, order):
    a = write(tmp_path, "a", head=False, config={"tie_word_embeddings": True})
    (tmp_path / "a/model.safetensors").unlink()
    torch.save(a | {HEAD: a[EMBED]}, tmp_path / "a/pytorch_model.bin")
    b = write(tmp_path, "b", head=True, config={"tie_word_embeddings": False})
    found, config, _ = made(tmp_path, models=order)
    torch.testing.assert_close(found[HEAD], (a[EMBED] + b[HEAD]) / 2)
    assert config["tie_word_embeddings"] is False


def test_models_that_scale_what_a_tied_head_reads_have_none_for_others(tmp_path):
    write(tmp_path, "a", head=False, config={"model_type": "t5"})
    write(tmp_path, "b", head=True, config={"model_type": "t5", "tie_word_embeddings": False})
    with pytest.raises(RecipeError, match=r"lm_head\.weight"):
        planned(tmp_path, models=["a", "b"])


def test_what_is_not_downloaded_yet_is_said_to_be_missing(tmp_path):
    tensors = write(tmp_path, "a", head=False)
    write(tmp_path, "b", head=True)
    specs = open_checkpoint(tmp_path / "a").specs
    plan = make_plan(
        recipe_from({"method": "mean", "models": ["org/a", "b"]}, folder=tmp_path),
        given={"org/a": HeadersOnly(specs, source="org/a")},
    )
    assert plan.opened.missing == ("org/a",)
    assert "org/a has to be downloaded" in plan.notes
    assert plan.merged.specs[HEAD].shape == tensors[EMBED].shape


def test_the_plan_tells_whether_the_config_is_changed(tmp_path):
    tied = {"tie_word_embeddings": True}
    write(tmp_path, "a", head=False, config=tied)
    write(tmp_path, "b", head=True, config=tied)
    before = planned(tmp_path, models=["a", "b"]).hash
    (tmp_path / "b/config.json").write_text('{"tie_word_embeddings": false}')
    assert planned(tmp_path, models=["a", "b"]).hash != before


def test_other_numbers_of_rows_are_an_error_as_before(tmp_path):
    write(tmp_path, "a", head=False)
    write(tmp_path, "b", head=True, rows=6)
    with pytest.raises(RecipeError, match="different shapes"):
        planned(tmp_path, models=["a", "b"])
