"""The config of one model beside the tokenizer of another."""

import json

import pytest
from token_models import write

from conjoin.errors import RecipeError
from conjoin.recipes import Options, make_plan, read_recipe, recipe_from, run_plan


@pytest.fixture
def speakers(tmp_path):
    """Two models: "b" has a token more, and another config."""
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "vuwx")
    for name, theta in (("a", 1), ("b", 2)):
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text()) | {"rope_theta": theta}
        path.write_text(json.dumps(config))
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"of": name}))
        (tmp_path / name / "special_tokens_map.json").write_text(json.dumps({"of": name}))
    (tmp_path / "a/vocab.txt").write_text("of a alone")
    return tmp_path


def written(plan, folder, name):
    out = folder / "out"
    if not out.exists():
        run_plan(plan, out, Options(sync=False, card=False))
    return json.loads((out / name).read_text())


def of_mergekit(folder, text):
    path = folder / "recipe.yml"
    path.write_text(text)
    return make_plan(read_recipe(path))


def check_both(plan, folder):
    assert written(plan, folder, "config.json")["rope_theta"] == 1
    assert written(plan, folder, "config.json")["vocab_size"] == 4
    assert written(plan, folder, "generation_config.json") == {"of": "a"}
    assert written(plan, folder, "special_tokens_map.json") == {"of": "b"}
    theirs = json.loads((folder / "b/tokenizer.json").read_text())
    assert written(plan, folder, "tokenizer.json") == theirs
    assert not (folder / "out/vocab.txt").exists()
    assert any(note.startswith("the tokenizer is that of") for note in plan.notes)


def test_a_recipe_says_whose_each_is(speakers):
    recipe = {"method": "mean", "models": ["a", "b"], "vocabulary": "b"}
    plan = make_plan(recipe_from({**recipe, "output": {"files_from": "a"}}, folder=speakers))
    check_both(plan, speakers)


def test_without_files_from_both_are_those_of_the_vocabulary(speakers):
    recipe = {"method": "mean", "models": ["a", "b"], "vocabulary": "b"}
    plan = make_plan(recipe_from(recipe, folder=speakers))
    assert written(plan, speakers, "config.json")["rope_theta"] == 2
    assert written(plan, speakers, "generation_config.json") == {"of": "b"}


@pytest.mark.parametrize("tokenizer", ["tokenizer_source: b\n", "tokenizer: {source: b}\n"])
@pytest.mark.parametrize(
    "models",
    [
        "merge_method: task_arithmetic\nbase_model: a\nmodels: [{model: b, parameters: "
        "{weight: 1}}]\n",
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, "
        "parameters: {weight: 1}}]\n",
    ],
)
def test_in_mergekits_recipes_the_config_is_the_bases_or_the_first_models(
    speakers, tokenizer, models
):
    check_both(of_mergekit(speakers, models + tokenizer), speakers)


HEAD = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"


def test_keys_of_conjoins_recipes_may_stand_in_mergekits(speakers):
    text = (
        HEAD + "merge_method: dare_linear\nbase_model: a\ntokenizer_source: base\nseed: 7\n"
        "nonfinite: allow\nonly_some: drop\nkeep: {'*.norm.weight': b, lm_head.bias: base}\n"
        "kinds: {'*.mlp.weight': constant}\nlayers: 'model.layers.*'\n"
        "output: {shard_size: 1 GB, metadata: {by: me}, files_from: b}\n"
    )
    text = text.replace("{model: a, parameters: {weight: 1}}, ", "")
    recipe = of_mergekit(speakers, text).recipe
    assert (recipe.seed, recipe.nonfinite, recipe.only_some) == (7, "allow", "drop")
    assert [(rule.pattern, rule.source) for rule in recipe.keep] == [
        ("*.norm.weight", 0),
        ("lm_head.bias", "base"),
    ]
    assert recipe.kinds[0].kind.value == "constant"
    assert recipe.layers == "model.layers.*"
    assert (recipe.output.shard_size, recipe.output.files_from) == (10**9, 0)
    assert recipe.output.metadata == {"by": "me"}


def test_a_base_may_be_kept_from_by_a_method_that_has_none(speakers):
    text = HEAD + "merge_method: linear\nbase_model: a\ntokenizer_source: union\n"
    plan = of_mergekit(speakers, text + "keep: {'*.norm.weight': base}\n")
    (source,) = plan.merged.tasks["model.norm.weight"].sources
    assert plan.opened.everyone[source.model].source.endswith("/a")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("random_seed: 3", "write `seed:`"),
        ("int8_mask: true", "leave it out"),
        ("keep: {'*.norm.weight': c}", "unknown model 'c'"),
        ("nonfinite: maybe", "unknown value .maybe.. Allowed here: refuse, allow"),
    ],
)
def test_what_is_wrong_with_them_is_said(speakers, key, message):
    with pytest.raises(RecipeError, match=message):
        of_mergekit(speakers, HEAD + f"merge_method: linear\n{key}\n")


@pytest.mark.parametrize(
    "tokens", ["tokenizer_source: base", "tokenizer: {tokens: {u: {source: a}}}"]
)
def test_a_base_that_only_tokens_come_from(speakers, tokens):
    text = (
        "merge_method: passthrough\nbase_model: a\n"
        "slices: [{sources: [{model: b, layer_range: [0, 1]}]}]\n"
        f"{tokens}\noutput: {{files_from: b}}\n"
    )
    plan = of_mergekit(speakers, text)
    assert plan.opened.base is not None
    assert written(plan, speakers, "config.json")["rope_theta"] == 2


@pytest.mark.parametrize("rule", ["keep: {lm_haed.weight: a}", "kinds: {lm_haed.weight: weight}"])
def test_a_pattern_that_matches_nothing_is_an_error(speakers, rule):
    text = HEAD + "merge_method: linear\ntokenizer_source: union\n"
    with pytest.raises(RecipeError, match="lm_haed"):
        of_mergekit(speakers, text + rule + "\n")


def test_keys_without_a_value_are_as_if_not_written(speakers):
    text = HEAD + "merge_method: linear\nslices: null\nmodules: null\nseed: null\nbase_model:\n"
    assert of_mergekit(speakers, text + "tokenizer_source: union\n").recipe.seed == 0


def test_float64(speakers):
    text = HEAD + "merge_method: linear\ndtype: float64\ntokenizer_source: union\n"
    assert str(of_mergekit(speakers, text).recipe.dtype) == "torch.float64"
