"""What a plan tells of rows that are matched by token."""

from token_models import write

from conjoin.recipes import make_plan, recipe_from


def _plan(folder, **more):
    given_ = {"method": "mean", "models": ["a", "b"], **more}
    return make_plan(recipe_from(given_, folder=folder))


def test_what_is_not_written_is_told(tmp_path):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "uvw", ["<x>"])
    recipe = recipe_from(
        {"method": "mean", "models": ["a", "b"], "vocabulary": "union"}, folder=tmp_path
    )
    told = "\n".join(make_plan(recipe, single="out.safetensors").notes)
    assert "out.safetensors is one file, without the tokenizer that has the new tokens" in told
    assert "vocab_size" not in "\n".join(make_plan(recipe).notes)
    (tmp_path / "a" / "config.json").write_text('{"text_config": {"model_type": "x"}}')
    told = "\n".join(make_plan(recipe).notes)
    assert "config.json does not have 3 as vocab_size; the result has 4 rows" in told


def test_what_was_done_is_told(tmp_path):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", ["u", "hello"], ["<x>"])
    told = "\n".join(_plan(tmp_path, vocabulary="union").notes)
    assert (
        "matched by token: 5 tokens in 5 rows, those of model 0 (a) and 2 more: 'hello', " in told
    )
    assert "1 of the new tokens are parts of text" in told
    assert "before it is divided" in told
    assert "model 1 (b) lacks 2 of the tokens" in told
    assert "other numbers" not in told
    told = "\n".join(_plan(tmp_path, vocabulary="a").notes)
    assert "2 tokens of model 1 (b) are left out: 'hello', '<x>'" in told
