"""What a tokenizer says of its tokens, against what its library makes of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_models import entry, tokenizer, write

from conjoin.errors import RecipeError
from conjoin.recipes import make_plan, recipe_from
from conjoin.recipes.tokens import next_number, numbers_of, what_is_wrong


def _plan(folder):
    recipe = {"method": "mean", "models": ["a", "b"], "vocabulary": "union"}
    return make_plan(recipe_from(recipe, folder=folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"vocab": {"u": 0, "v": 10**9}}}, "far beyond the rows of all models"),
        ({"model": {"vocab": {"u": 0, "v": 10**30}}}, "'v' with the number 1000000"),
        ({"model": {"vocab": {"u": 0, "v": -1}}}, "'v' with the number -1"),
        ({"model": {"vocab": {"u": 0, "v": True}}}, "'v' with the number True"),
        ({"model": {"vocab": {"u": 0, "": 1}}}, "'' with the number 1"),
        ({"model": {"vocab": {"u": 0, "\ud800": 1}}}, "with the number 1"),
        ({"model": {"vocab": {"u": 0, "v": 0}}}, "'u' has the number of 'v'"),
        ({"model": {"vocab": {"u": 0, "v": 2}}}, "the number of a new token, 2, is that of 'v'"),
        ({"model": {"vocab": None}}, "its model has no vocabulary"),
        ({"model": 3}, "its model has no vocabulary"),
        ({"added_tokens": 5}, "its added_tokens are no list"),
        ({"added_tokens": [5]}, "its added_tokens are no list of different tokens"),
        ({"added_tokens": [entry("<x>", 3), entry("<x>", 4)]}, "no list of different tokens"),
        ({"added_tokens": [entry("<x>", 5)]}, "'<x>' has the number 5 there, and is read as 3"),
        ({"added_tokens": [entry("<x>", 1)]}, "'<x>' has the number 1 there, and is read as 3"),
    ],
)
def test_a_tokenizer_that_is_not_what_it_says_is_refused(tmp_path, change, message):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "uvw", ["<new>"])
    path = tmp_path / "a" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecipeError, match=message) as error:
        _plan(tmp_path)
    assert str(path) in str(error.value)


numbers_ = st.integers(0, 9)
tokens_ = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(tokens_, numbers_, min_size=1, max_size=5),
    st.lists(st.tuples(tokens_, numbers_), max_size=4),
)
def test_numbers_are_those_that_the_library_reads_or_it_is_said(vocabulary, added):
    tokenizers = pytest.importorskip("tokenizers")
    said = tokenizer("u")
    said["model"]["vocab"] = vocabulary
    said["model"]["unk_token"] = next(iter(vocabulary))
    said["added_tokens"] = [entry(token, number) for token, number in added]
    wrong = what_is_wrong(said)
    try:
        loaded = tokenizers.Tokenizer.from_str(json.dumps(said))
    except Exception:
        assert wrong is not None
        return
    assert (wrong is None) <= (loaded.get_vocab() == numbers_of(said))
    if wrong is None:
        # And so is the number of the next one.
        expected = next_number(len(vocabulary), (one["id"] for one in said["added_tokens"]))
        taken = expected in vocabulary.values()
        loaded.add_tokens(["<new>"])
        assert loaded.token_to_id("<new>") == expected or taken
