"""Wrong results that other tools give without a word: here each is right, or an error."""

import json

import pytest
import torch
from torch import nn

from conjoin.checkpoints import open_checkpoint
from conjoin.errors import NonFiniteError, RecipeError
from conjoin.recipes import Options

MERGEKIT = "merge_method: {}\nmodels:\n  - {{model: a, parameters: {{weight: 1}}}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: ties\nbase: a\nmodels: [a]\nparameters: {densty: 1}\n", "'density'"),
        ("method: ties\nbase: a\nmodels: [a]\nparametres: {density: 1}\n", "'parameters'"),
        ("method: linear\nmodels: [a]\nout_dtpye: float16\n", "'out_dtpye'"),
        (MERGEKIT.format("task_arithmetic") + "base_model: a\nout_dtpye: float16\n", "'out_dtype'"),
        (
            MERGEKIT.format("ties") + "base_model: a\nparameters: {lamda: 2}\n",
            "'lambda'",
        ),
    ],
)
def test_mistyped_keys(model, plan, text, words):
    model("a")
    with pytest.raises(RecipeError, match=rf"recipe.yml:\d+: .*unknown .*{words}"):
        plan(text)


@pytest.mark.parametrize("kind", ["ours", "mergekit"])
def test_a_gradient_outside_of_the_layers(model, merged, kind):
    a, b = model("a"), model("b")
    found = merged(
        "method: linear\nmodels: [{model: a, weight: [1, 0]}, {model: b, weight: [0, 1]}]\n"
        if kind == "ours"
        else "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: [1, 0]}}\n"
        "  - {model: b, parameters: {weight: [0, 1]}}\n"
    )
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(found[name], b[name])


def test_slices_with_different_numbers_of_sources(model, merged):
    a, b = model("a"), model("b")
    one = "  - models: [{model: a, layers: [0, 1], weight: 1}]\n"
    two = (
        "  - models:\n    - {model: a, layers: [1, 3], weight: 1}\n"
        "    - {model: b, layers: [1, 3], weight: 1}\n"
    )
    found = merged(f"method: linear\nslices:\n{one}{two}")
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(found[name], (a[name] + b[name]) / 2)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_one_nan_in_an_input(model, made, tmp_path, method):
    a = model("a")
    model("b", a | {"model.norm.weight": torch.tensor([torch.nan, 1])})
    with pytest.raises(NonFiniteError, match="'model.norm.weight' of model 1 .* 1 NaN"):
        made(f"method: {method}\nmodels: [a, b]\n")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_weights_1_and_minus_1_with_normalization(model, plan):
    model("a"), model("b")
    text = "method: linear\nmodels: [{model: a, weight: 1}, {model: b, weight: -1}]\n"
    with pytest.raises(RecipeError, match="sum to zero"):
        plan(text)
    varying = text.replace("weight: -1", 'weight: {"lm_head.*": -1, "*": 1}')
    with pytest.raises(Exception, match="sum to zero"):
        plan(varying).merged["lm_head.weight"]


def test_old_shards_left_beside_the_new(model, made, tmp_path):
    model("a"), model("b")
    text = "method: mean\nmodels: [a, b]\n"
    made(text + "output: {shard_size: 60 B}\n")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    made(text, options=Options(overwrite=True))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "conjoin.json", "model.safetensors"}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_the_config_is_not_of_a_random_input(model, made, tmp_path, order):
    for name in order:
        model(name, config={"of": name})
    made(f"method: mean\nmodels: [{', '.join(order)}]\n")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"of": order[0]}


def test_trimming_small_tensors_does_not_make_every_change_zero(model, merged):
    zero = model("zero")
    a = model("a")
    found = merged("method: ties\nbase: zero\nmodels: [a]\nparameters: {density: 1}\n")
    for name in zero:
        torch.testing.assert_close(found[name], a[name])


def test_batchnorm_models_trained_for_different_steps(tmp_path, merged):
    nets = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    for steps, net in enumerate(nets, start=1):
        for _ in range(steps):
            net(torch.randn(4, 2))
        torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / f"{steps}.pt")
    found = merged("method: mean\nmodels: [1.pt, 2.pt]\n")
    assert found["1.num_batches_tracked"].item() == 2
    assert (found["1.running_var"] > 0).all()
    torch.testing.assert_close(found["0.weight"], (nets[0][0].weight + nets[1][0].weight).data / 2)


def test_integers_are_not_averaged(model, plan, merged):
    for name, position in (("a", 0), ("b", 0)):
        model(name, {"w": torch.ones(2), "position_ids": torch.tensor([position, 3])})
    found = merged("method: mean\nmodels: [a, b]\ndtype: bfloat16\n")
    assert (found["position_ids"].dtype, found["w"].dtype) == (torch.int64, torch.bfloat16)


def test_arithmetic_does_not_round_to_the_dtype_of_the_inputs(model, made):
    tensors = [{"w": torch.full((64,), value).bfloat16()} for value in (1.0, 2.0**-8, 2.0**-8)]
    for name, one in zip("abc", tensors, strict=True):
        model(name, one)
    found = made("method: sum\nmodels: [a, b, c]\n")
    # in bfloat16, 1 + 2**-8 is 1 again
    assert torch.equal(found["w"], torch.full((64,), 1 + 2.0**-7).bfloat16())


def test_a_size_mismatch(model, plan):
    a = model("a")
    model("b", a | {"lm_head.weight": torch.ones(4, 2)})
    with pytest.raises(RecipeError, match=r"recipe.yml:2: .*shapes.*'lm_head.weight'"):
        plan("method: mean\nmodels: [a, b]\n")


def test_random_masks_do_not_depend_on_the_order_of_execution(model, plan, made, tmp_path):
    model("zero"), model("a"), model("b")
    text = "method: dare_linear\nbase: zero\nmodels: [a, b]\nseed: 3\n"
    for threads in (1, 4):
        made(text, f"by-{threads}", Options(threads=threads))
    one, four = (open_checkpoint(tmp_path / f"by-{threads}") for threads in (1, 4))
    for name in reversed(list(one)):
        assert torch.equal(one[name], four[name])
        assert torch.equal(one[name], plan(text).merged[name])
