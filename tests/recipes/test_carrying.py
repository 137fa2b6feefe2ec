"""Config and tokenizer come from a stated model, and say what is true of the result."""

import json

import pytest
from layered_models import layered

from conjoin.checkpoints import HeadersOnly, open_checkpoint
from conjoin.errors import RecipeError
from conjoin.recipes import make_plan

CONFIG = {"num_hidden_layers": 3, "torch_dtype": "float32", "name": "ü"}
TEXT = "method: mean\nmodels: [a, b]\n"


@pytest.fixture
def both(model):
    model("a", config={"of": "a"})
    model("b", config={"of": "b"})
    model("zero", config={"of": "zero"})


def config(tmp_path):
    return json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))


def test_by_default_they_are_those_of_the_first_model(both, made, tmp_path):
    made(TEXT)
    assert config(tmp_path) == {"of": "a"}


def test_by_default_they_are_those_of_the_base(both, made, tmp_path):
    made("method: task_arithmetic\nbase: zero\nmodels: [a, b]\n")
    assert config(tmp_path) == {"of": "zero"}


@pytest.mark.parametrize("chosen", ["b", "1"])
def test_or_of_the_model_that_the_recipe_names(both, made, tmp_path, chosen):
    made(f"method: task_arithmetic\nbase: zero\nmodels: [a, b]\noutput: {{files_from: {chosen}}}\n")
    assert config(tmp_path) == {"of": "b"}


def test_whose_they_are_is_said(both, plan):
    assert "config, tokenizer and the like (1 file) come from model 0, a" in plan(TEXT).notes


def test_bytes_are_kept_where_nothing_changes(both, made, tmp_path):
    raw = b'{"of":    "a",\n\n"x": 1}'
    (tmp_path / "a" / "config.json").write_bytes(raw)
    (tmp_path / "a" / "tokenizer.json").write_bytes(b"\xff not text")
    made(TEXT)
    assert (tmp_path / "out" / "config.json").read_bytes() == raw
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b"\xff not text"


def test_files_in_folders_go_along(both, made, tmp_path):
    inner = tmp_path / "a" / "additional_chat_templates"
    inner.mkdir()
    (inner / "tools.jinja").write_text("{{ x }}")
    made(TEXT)
    found = tmp_path / "out" / "additional_chat_templates" / "tools.jinja"
    assert found.read_text() == "{{ x }}"


def test_a_config_says_dtype_and_layers_of_the_result(model, made, tmp_path):
    model("a", config=CONFIG)
    made(
        "method: passthrough\ndtype: bfloat16\nslices:\n"
        "  - models: [{model: a, layers: [0, 3]}]\n  - models: [{model: a, layers: [1, 3]}]\n"
    )
    assert config(tmp_path) == {"num_hidden_layers": 5, "torch_dtype": "bfloat16", "name": "ü"}


def test_lists_with_an_entry_for_each_layer(model, made, tmp_path):
    kinds = ["full", "sliding", "linear"]
    model("a", config={**CONFIG, "layer_types": kinds, "other": kinds})
    made(
        "method: passthrough\nslices:\n"
        "  - models: [{model: a, layers: [0, 2]}]\n  - models: [{model: a, layers: [1, 3]}]\n"
    )
    found = config(tmp_path)
    assert found["layer_types"] == ["full", "sliding", "sliding", "linear"]
    assert found["other"] == kinds


TEXT_AND_VISION = """\
method: passthrough
dtype: float16
layers: "text_model.model.layers.*"
slices:
  - models: [{model: a, layers: [0, 2]}]
  - models: [{model: a, layers: [1, 3]}]
"""


@pytest.mark.parametrize("others", [2, 3])
def test_a_config_within_the_config_says_layers_and_dtype(model, made, plan, tmp_path, others):
    parts = {"text_model": layered(3, 0), "vision_model": layered(others, 1)}
    tensors = {f"{part}.{name}": t for part, of in parts.items() for name, t in of.items()}
    kinds = ["full", "sliding", "linear"]
    text = {"model_type": "t", "num_hidden_layers": 3, "dtype": "float32", "layer_types": kinds}
    vision = {"model_type": "v", "num_hidden_layers": others, "dtype": "float32"}
    quantized = {"dtype": "int8"}
    model(
        "a",
        tensors,
        config={
            "torch_dtype": "float32",
            "text_config": text,
            "vision_config": vision,
            "quantization_config": quantized,
        },
    )
    assert not any("number is that of" in note for note in plan(TEXT_AND_VISION).notes)
    made(TEXT_AND_VISION)
    assert config(tmp_path) == {
        "torch_dtype": "float16",
        "text_config": {
            "model_type": "t",
            "num_hidden_layers": 4,
            "dtype": "float16",
            "layer_types": ["full", "sliding", "sliding", "linear"],
        },
        "vision_config": {**vision, "dtype": "float16"},
        "quantization_config": quantized,
    }


@pytest.mark.parametrize(
    ("parts", "stacked", "before", "after"),
    [
        # T5: `num_layers` is the encoder's.
        (
            {"encoder": 3, "decoder": 3},
            "decoder",
            {"num_layers": 3, "num_decoder_layers": 3},
            {"num_layers": 3, "num_decoder_layers": 4},
        ),
        (
            {"encoder": 3, "decoder": 3},
            "encoder",
            {"num_layers": 3, "num_decoder_layers": 3},
            {"num_layers": 4, "num_decoder_layers": 3},
        ),
        # BART has the encoder's number twice.
        (
            {"encoder": 3, "decoder": 3},
            "encoder",
            {"encoder_layers": 3, "num_hidden_layers": 3, "decoder_layers": 3},
            {"encoder_layers": 4, "num_hidden_layers": 4, "decoder_layers": 3},
        ),
        # Without the decoder's, there is one number for both.
        ({"encoder": 3, "decoder": 3}, "decoder", {"num_layers": 3}, None),
        ({"encoder": 3, "decoder": 3}, "encoder", {"num_layers": 3}, None),
        # A config for each, of which one has the stack's name.
        (
            {"encoder": 3, "decoder": 3},
            "decoder",
            {n: {"model_type": n, "num_hidden_layers": 3} for n in ("encoder", "decoder")},
            None,
        ),
        # BERT and OPT are an encoder and a decoder alone.
        ({"encoder": 3}, "encoder", {"num_hidden_layers": 3}, {"num_hidden_layers": 4}),
        ({"decoder": 3}, "decoder", {"num_hidden_layers": 3}, {"num_hidden_layers": 4}),
        # The layers that are stacked are the tower's.
        (
            {"language": 5, "visual": 3},
            "visual",
            {"num_hidden_layers": 5, "vision_config": {"depth": 3}},
            {"num_hidden_layers": 5, "vision_config": {"depth": 4}},
        ),
        (
            {"language": 3, "visual": 3},
            "visual",
            {"text_config": {"num_hidden_layers": 3}, "vision_config": {"blocks": 3}},
            None,
        ),
        # The number is there twice.
        (
            {"language": 3, "visual": 3},
            "language",
            {
                "num_hidden_layers": 3,
                "text_config": {"num_hidden_layers": 3},
                "vision_config": {"depth": 3},
            },
            {
                "num_hidden_layers": 4,
                "text_config": {"num_hidden_layers": 4},
                "vision_config": {"depth": 3},
            },
        ),
        # A model for images and no more.
        ({"vit": 3}, "vit", {"num_hidden_layers": 3}, {"num_hidden_layers": 4}),
        # Two levels down; what is no config is left, and so is a number that is not the model's.
        (
            {"language": 3, "audio": 3},
            "language",
            {"a_config": {"text_config": {"n_layer": 3}, "audio_config": {"n_layer": 3}}},
            {"a_config": {"text_config": {"n_layer": 4}, "audio_config": {"n_layer": 3}}},
        ),
        ({"language": 3}, "language", {"adapter": {"num_layers": 3}}, None),
        ({"language": 3}, "language", {"num_layers": 9}, None),
    ],
)
def test_the_number_of_layers_is_that_of_the_stack(
    model, made, plan, tmp_path, parts, stacked, before, after
):
    tensors = {
        f"{part}.{name}": tensor
        for seed, (part, layers) in enumerate(parts.items())
        for name, tensor in layered(layers, seed).items()
    }
    model("a", tensors, config=before)
    text = TEXT_AND_VISION.replace("text_model", stacked).replace("dtype: float16\n", "")
    said = any("does not say clearly" in note for note in plan(text).notes)
    assert said == (after is None)
    made(text)
    assert config(tmp_path) == (after or before)


def test_a_config_that_may_be_of_any_stack_is_left(model, made, plan, tmp_path):
    parts = {"one": layered(3, 0), "other": layered(3, 1)}
    model(
        "a",
        {f"{part}.{name}": t for part, of in parts.items() for name, t in of.items()},
        config={name: {"num_hidden_layers": 3} for name in ("one", "other")},
    )
    text = TEXT_AND_VISION.replace("text_model", "one")
    said = "number is that of the layers one.model.layers.*; the result has 4"
    assert any(said in note for note in plan(text).notes)
    made(text)
    assert config(tmp_path) == {name: {"num_hidden_layers": 3} for name in ("one", "other")}


def test_keys_are_never_added(model, made, tmp_path):
    model("a", config={"n_layer": 3, "dtype": "float32"})
    made("method: passthrough\ndtype: float16\nslices:\n  - models: [{model: a, layers: [0, 2]}]\n")
    assert config(tmp_path) == {"n_layer": 2, "dtype": "float16"}


@pytest.mark.parametrize("content", [b"not json", b"[1]", b"\xff"])
def test_a_config_that_cannot_be_read_is_copied(model, made, tmp_path, content):
    model("a"), model("b")
    (tmp_path / "a" / "config.json").write_bytes(content)
    made(TEXT + "dtype: bfloat16\n")
    assert (tmp_path / "out" / "config.json").read_bytes() == content


def test_a_model_without_a_config(model, plan, made, tmp_path):
    model("a"), model("b", config={"of": "b"})
    assert plan(TEXT).carried == {}
    with pytest.raises(RecipeError, match=r"recipe.yml:3: there is no config.json beside"):
        plan(TEXT + "output: {files_from: a}\n")


def test_a_link_out_of_the_folder_is_refused(both, plan, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "a" / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(RecipeError, match=r"vocab\.txt"):
        plan(TEXT)


def test_one_file_carries_nothing(both, model, plan):
    found = plan(TEXT, single="x.safetensors")
    assert (found.carried, found.notes) == ({}, ())
    model("zero")  # so a config that is not there does not matter
    text = TEXT + "output: {files_from: 1}\n"
    assert plan(text.replace("b]", "zero]"), single="x.safetensors").carried == {}


def test_the_config_of_a_model_that_is_not_downloaded_yet(both, recipe, tmp_path):
    specs = open_checkpoint(tmp_path / "a").specs
    given = {"org/far": HeadersOnly(specs, source="org/far")}
    text = "method: mean\nmodels: [org/far, b]\noutput: {files_from: 0}\n"
    found = make_plan(recipe(text), given=given)
    assert found.carried == {}
    assert (
        "config and tokenizer are those of model 0, org/far, which has no files here yet"
        in found.notes
    )
