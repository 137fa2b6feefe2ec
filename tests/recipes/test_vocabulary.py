"""Rows matched by token, against the same done token by token."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libraries import library
from token_models import WIDTH, by_token, entry, tokenizer, write

from conjoin.checkpoints import open_checkpoint, save
from conjoin.errors import RecipeError
from conjoin.recipes import Options, make_plan, recipe_from, run_plan

some = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EMBED, HEAD, BIAS = "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"


def _plan(folder, **more):
    given_ = {"method": "mean", "models": ["a", "b"], **more}
    return make_plan(recipe_from(given_, folder=folder))


def _run(plan, out):
    run_plan(plan, out, Options(sync=False, card=False))
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    numbers = dict(tokenizer["model"]["vocab"])
    numbers |= {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    return dict(open_checkpoint(out).items()), numbers


def test_a_token_that_one_model_alone_has_keeps_its_row(tmp_path):
    a = write(tmp_path, "a", "uvw")
    b = write(tmp_path, "b", "wuv", ["<x>"])  # in another order
    found, numbers = _run(_plan(tmp_path, vocabulary="union"), tmp_path / "out")
    assert numbers == {"u": 0, "v": 1, "w": 2, "<x>": 3}
    for name in (EMBED, HEAD, BIAS):
        one, other = by_token(a, "uvw", name=name), by_token(b, "wuv", ["<x>"], name)
        for token in "uvw":
            torch.testing.assert_close(found[name][numbers[token]], (one[token] + other[token]) / 2)
        assert torch.equal(found[name][3], other["<x>"])
    same = "model.layers.0.mlp.weight"
    torch.testing.assert_close(found[same], (a[same] + b[same]) / 2)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 4
    tokenizer = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert tokenizer["added_tokens"] == [entry("<x>", 3)]


def test_with_a_base_a_missing_token_has_not_changed_from_it(tmp_path):
    base = write(tmp_path, "base", "uv")
    write(tmp_path, "a", "uv", ["<x>"])
    b = write(tmp_path, "b", "u")
    recipe = {
        "method": "task_arithmetic",
        "base": "base",
        "parameters": {"weight": 0.5},
        "vocabulary": "union",
    }
    found, numbers = _run(_plan(tmp_path, **recipe), tmp_path / "out")
    a = dict(open_checkpoint(tmp_path / "a").items())
    rows = by_token(base, "uv")
    expected = rows["v"] + 0.5 * (a[EMBED][1] - rows["v"])  # b has the base's row of it
    torch.testing.assert_close(found[EMBED][numbers["v"]], expected)
    expected = rows["u"] + 0.5 * (a[EMBED][0] - rows["u"]) + 0.5 * (b[EMBED][0] - rows["u"])
    torch.testing.assert_close(found[EMBED][numbers["u"]], expected)
    # The base gets the row of the only model that has the token, so that nothing has changed.
    assert torch.equal(found[EMBED][numbers["<x>"]], a[EMBED][2])


def _expected(models, base, tokens):
    """The row of each token in each model: its own, or by the rule that the docs have."""
    seen = []
    for own in models:
        rows = {}
        for token in tokens:
            having = [one[token] for one in models if token in one]
            if token in own:
                rows[token] = own[token]
            elif len(having) == 1:
                (rows[token],) = having
            elif base is not None and token in models[base]:
                rows[token] = models[base][token]
            elif having:
                rows[token] = torch.stack(having).double().mean(0).float()
        seen.append(rows)
    return seen


words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True)
marks = st.lists(st.sampled_from(["<1>", "<2>", "<3>", "<4>"]), max_size=3, unique=True)


@some
@given(
    st.lists(st.tuples(words, marks, st.integers(0, 3)), min_size=2, max_size=4),
    st.booleans(),
    st.sampled_from(["union", 0, 1]),
    st.booleans(),
    st.integers(1, 5),
)
def test_any_vocabularies_against_token_by_token(
    tmp_path_factory, drawn, with_base, of, tied, multiple
):
    folder = tmp_path_factory.mktemp("models")
    names = [f"m{number}" for number in range(len(drawn))]
    tensors = [
        write(folder, name, plain, added, spare=spare, tied=tied)
        for name, (plain, added, spare) in zip(names, drawn, strict=True)
    ]
    recipe = {
        "method": "linear",
        "parameters": {"weight": 1.0},
        "models": names,
        "vocabulary": {"of": of, "multiple": multiple},
    }
    if with_base:
        recipe |= {"method": "task_arithmetic", "base": names[-1], "models": names[:-1]}
        of = min(of, len(names) - 2) if of != "union" else of
        recipe["vocabulary"]["of"] = of
    found, numbers = _run(make_plan(recipe_from(recipe, folder=folder)), folder / "out")
    carrier = (len(names) - 1 if with_base else 0) if of == "union" else of
    every = {token for plain, added, _ in drawn for token in (*plain, *added)}
    mine = {*drawn[carrier][0], *drawn[carrier][1]}
    assert numbers.keys() == (every if of == "union" else mine)
    assert len(set(numbers.values())) == len(numbers)
    for name in (EMBED, HEAD, BIAS):
        models = [by_token(t, *one[:2], name) for t, one in zip(tensors, drawn, strict=True)]
        seen = _expected(models, len(names) - 1 if with_base else None, numbers)
        assert len(found[name]) % multiple == 0
        for token, number in numbers.items():
            rows = torch.stack([one[token] for one in seen])
            if with_base:
                merged = rows[-1] + (rows[:-1] - rows[-1]).sum(0)
            else:
                merged = rows.mean(0)
            torch.testing.assert_close(found[name][number], merged, rtol=1e-4, atol=1e-5)
        assert found[name].isfinite().all()
    assert json.loads((folder / "out" / "config.json").read_text())["vocab_size"] == len(
        found[EMBED]
    )
    tokenizers = pytest.importorskip("tokenizers")
    loaded = tokenizers.Tokenizer.from_file(str(folder / "out" / "tokenizer.json"))
    assert loaded.get_vocab() == numbers


def test_rows_without_a_token_are_kept_and_filled(tmp_path):
    a = write(tmp_path, "a", "uv", spare=3)
    b = write(tmp_path, "b", "vu", ["<x>"], spare=1)
    found, numbers = _run(
        _plan(tmp_path, vocabulary={"of": "union", "multiple": 4}), tmp_path / "out"
    )
    assert numbers["<x>"] == 2  # the first row that is free
    assert len(found[EMBED]) == 8
    assert torch.equal(found[EMBED][2], b[EMBED][2])
    torch.testing.assert_close(found[EMBED][3], (a[EMBED][3] + b[EMBED][3]) / 2)
    assert torch.equal(found[EMBED][4], a[EMBED][4])  # b has no such row
    both = [a[EMBED], b[EMBED]]
    seen = [
        torch.stack([both[0][0], both[0][1], both[1][2], both[0][3], both[0][4]]),
        torch.stack([both[1][1], both[1][0], both[1][2], both[1][3], both[0][4]]),
    ]
    mean = (seen[0].mean(0) + seen[1].mean(0)) / 2
    torch.testing.assert_close(found[EMBED][5:], mean.expand(3, WIDTH))


def test_a_row_without_a_token_is_that_of_the_tokenizer_that_goes_along(tmp_path):
    a = write(tmp_path, "a", "uv", spare=2)
    b = write(tmp_path, "b", "uv", spare=2)
    write(tmp_path, "c", "uv")
    plan = _plan(tmp_path, models=["a", "b", "c"], vocabulary="b")
    expected = (a[EMBED][3] + b[EMBED][3] + b[EMBED][3]) / 3
    torch.testing.assert_close(plan.merged[EMBED][3], expected)


def test_the_row_of_a_token_that_is_left_out_is_no_row_without_a_token(tmp_path):
    a = write(tmp_path, "a", "uv", spare=1)
    write(tmp_path, "b", "uvw")
    assert torch.equal(_plan(tmp_path, vocabulary="a").merged[EMBED][2], a[EMBED][2])


def test_a_recipe_says_whose_row_a_token_gets(tmp_path):
    a = write(tmp_path, "a", "uvw")
    b = write(tmp_path, "b", "uv", ["<x>"])
    tokens = {
        "<x>": {"from": "a", "token": "w"},  # for a alone: b has it
        "<y>": {"from": "b", "token": "<x>"},
        "<z>": {"from": 1, "row": 0},
        "<0>": "zero",
        "w": {"from": "a", "everywhere": True},
        "v": {"from": "b", "everywhere": True},
    }
    vocabulary = {"of": "a", "tokens": tokens}
    found, numbers = _run(_plan(tmp_path, vocabulary=vocabulary), tmp_path / "out")
    assert numbers == {"u": 0, "v": 1, "w": 2, "<x>": 3, "<y>": 4, "<z>": 5, "<0>": 6}
    rows = found[EMBED]
    torch.testing.assert_close(rows[3], (a[EMBED][2] + b[EMBED][2]) / 2)
    assert torch.equal(rows[4], b[EMBED][2])
    assert torch.equal(rows[5], b[EMBED][0])
    assert torch.equal(rows[6], torch.zeros(WIDTH))
    assert torch.equal(rows[2], a[EMBED][2])
    assert torch.equal(rows[1], b[EMBED][1])


def test_equal_tokenizers_change_nothing(tmp_path):
    write(tmp_path, "a", "uvw", ["<x>"], spare=2)
    write(tmp_path, "b", "uvw", ["<x>"], spare=2)
    plain = _plan(tmp_path)
    for of in ("union", "a", 1):
        plan = _plan(tmp_path, vocabulary=of)
        assert plan.opened.matched.entries == ()
        assert all(torch.equal(plan.merged[name], plain.merged[name]) for name in plain.merged)
    before = (tmp_path / "a" / "tokenizer.json").read_bytes()
    run_plan(plan, tmp_path / "out", Options(sync=False))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_parts_of_matched_rows_are_those_of_the_whole(tmp_path, dtype):
    write(tmp_path, "a", "uvwxyz", ["<1>"], dtype=dtype)
    write(tmp_path, "b", "zaxbu", ["<2>", "<1>"], spare=4, dtype=dtype)
    write(tmp_path, "c", "qwx", dtype=dtype)
    plan = _plan(tmp_path, models=["a", "b", "c"], vocabulary={"of": "union", "multiple": 7})
    for seen in plan.opened.models:
        assert {name: (s.shape, s.dtype) for name, s in seen.specs.items()} == {
            name: (tensor.shape, tensor.dtype) for name, tensor in seen.items()
        }
        for name in (EMBED, BIAS, "model.norm.weight"):
            whole = seen[name].reshape(-1)
            for start in range(0, len(whole) + 1):
                for stop in range(start, len(whole) + 1, 5):
                    assert torch.equal(seen.read(name, start, stop), whole[start:stop])
            assert torch.equal(seen.sample(name, 1, len(whole), 4), whole[1::4])
            parts = [part.clone() for part in seen.blocks(name, 2, len(whole), 5)]
            assert torch.equal(torch.cat(parts), whole[2:])


def test_the_result_is_loaded_by_transformers(tmp_path):
    transformers = library("transformers")
    config = transformers.LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    given_ = {"a": (["u", "v", "w", "t"], []), "b": (["u", "v"], ["<x>", "<y>"])}
    for name, (plain, added) in given_.items():
        (tmp_path / name).mkdir()
        raw = json.dumps(tokenizer(plain, added))
        (tmp_path / f"{name}.json").write_text(raw)
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(tmp_path / f"{name}.json"), unk_token="u"
        )
        fast.save_pretrained(tmp_path / name)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    run_plan(_plan(tmp_path, vocabulary="union"), tmp_path / "out", Options(sync=False))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded("w <y> v<x>")["input_ids"] == [2, 5, 1, 4]
    assert loaded.convert_ids_to_tokens([4, 5]) == ["<x>", "<y>"]
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert network.get_input_embeddings().weight.shape == (6, 8)
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    b = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert torch.equal(network.get_input_embeddings().weight[4:], b.lm_head.weight[2:])


def test_a_part_of_text_that_is_a_token_of_its_own_elsewhere_becomes_one(tmp_path):
    # As where a reserved token of the base was made a token of chats.
    write(tmp_path, "a", ["u", "reserved", "v"])
    write(tmp_path, "b", ["u", "v"], ["reserved"])
    _, numbers = _run(_plan(tmp_path, vocabulary="union"), tmp_path / "out")
    assert numbers == {"u": 0, "reserved": 1, "v": 2}
    said = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]
    assert said == [entry("reserved", 1)]


def test_the_tokenizer_of_an_adapter_is_that_of_its_model(tmp_path):
    base = write(tmp_path, "base", "uv", spare=2)
    write(tmp_path, "c", "uv", ["<y>"])
    folder = tmp_path / "lora"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "modules_to_save": ["embed_tokens"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    trained = torch.arange(4 * WIDTH).view(4, WIDTH).float()
    saved = {"base_model.model.model.embed_tokens.weight": trained}
    save(saved, folder / "adapter_model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer("uv", ["<x>", "<y>"])))
    plan = _plan(tmp_path, models=["base+lora", "c"], vocabulary="union")
    found, numbers = _run(plan, tmp_path / "out")
    assert numbers == {"u": 0, "v": 1, "<x>": 2, "<y>": 3}
    assert torch.equal(found[EMBED][2], trained[2])
    c = dict(open_checkpoint(tmp_path / "c").items())
    torch.testing.assert_close(found[EMBED][3], (trained[3] + c[EMBED][2]) / 2)
    assert not torch.equal(found[EMBED][2], base[EMBED][2])


def test_a_head_with_other_rows_than_the_embedding_is_refused(tmp_path):
    for name in "ab":
        tensors = write(tmp_path, name, "uvw")
        tensors[HEAD] = torch.zeros(8, WIDTH)
        save(tensors, tmp_path / name / "model.safetensors", overwrite=True)
    with pytest.raises(RecipeError, match="no embedding, or several with other numbers of rows"):
        _plan(tmp_path, vocabulary="union")


def test_tokenizers_are_a_part_of_what_a_result_is_made_of(tmp_path):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "vuw")
    before = _plan(tmp_path, vocabulary="a").hash
    path = tmp_path / "b" / "tokenizer.json"
    path.write_text(path.read_text().replace('"u": 1, "w": 2', '"w": 1, "u": 2'))
    after = _plan(tmp_path, vocabulary="a")
    assert after.hash != before
    assert [files[-1]["path"] for files in after.identities] == [
        str(tmp_path / name / "tokenizer.json") for name in "ab"
    ]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("c", "unknown model 'c'"),
        ({"of": "base"}, "'base' is chosen, but the recipe has no base"),
        ({"tokens": {}}, "needs the key 'of'"),
        ({"of": "a", "multiple": 0}, "whole number from 1 to 65536"),
        ({"of": "a", "tokens": {"u": {"from": "b", "token": "nope"}}}, "has no token 'nope'"),
        ({"of": "a", "tokens": {"u": {"from": "b", "row": 3}}}, "has 3 rows, and none 3"),
        ({"of": "a", "tokens": {"q": "b"}}, "has no token 'q'"),
        ({"of": "a", "tokens": {"q": {"from": "zero", "token": "u"}}}, "is of no token; leave out"),
        ({"of": "a", "tokens": {"\ud800": "zero"}}, "is no text that a file can hold"),
        ({"of": "a", "tokens": {"": "zero"}}, "is no text that a file can hold"),
        ({"of": "a", "multiple": 10**10}, "whole number from 1 to 65536"),
        ({"of": "a", "tokens": {"u": {"from": "b", "token": "u", "row": 0}}}, "leave out one"),
        ({"of": "a", "tensors": ["nothing.*"]}, "has no tensor that matches nothing"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, vocabulary, message):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "vuw")
    with pytest.raises(RecipeError, match=message):
        _plan(tmp_path, vocabulary=vocabulary)


def test_the_tokenizer_of_a_union_is_that_of_files_from(tmp_path):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "vuw")
    plan = _plan(tmp_path, vocabulary="union", output={"files_from": "b"})
    assert plan.carried["tokenizer.json"].parent.name == "b"


def test_models_without_tokens_are_refused(tmp_path):
    write(tmp_path, "a", "uvw")
    write(tmp_path, "b", "vuw")
    (tmp_path / "b" / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"model 1 \(b\) has no tokenizer.json beside"):
        _plan(tmp_path, vocabulary="union")


def test_a_tensor_that_may_be_of_tokens_is_not_passed_over(tmp_path):
    for name, plain in (("a", "uvwxy"), ("b", "vuwxy")):
        tensors = write(tmp_path, name, plain)
        tensors["strange.scores"] = torch.arange(5.0)
        save(tensors, tmp_path / name / "model.safetensors", overwrite=True)
    with pytest.raises(RecipeError, match=r"'strange.scores' has as many entries as there are tok"):
        _plan(tmp_path, vocabulary="a")
    patterns = ["*embed_tokens*", "lm_head.*", "strange.*"]
    plan = _plan(tmp_path, vocabulary={"of": "a", "tensors": patterns})
    assert plan.merged["strange.scores"].tolist() == [0.5, 0.5, 2, 3, 4]
    plan = _plan(tmp_path, vocabulary={"of": "a", "tensors": patterns[:2]})
    assert plan.merged["strange.scores"].tolist() == [0, 1, 2, 3, 4]
