"""`conjoin merge` with recipes, and with every method."""

import json
import math

import pytest
import torch

import conjoin
from conjoin.checkpoints import open_checkpoint, save
from conjoin.methods import METHODS, Need


@pytest.fixture
def recipe(two, tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text(
        "method: linear\nmodels:\n"
        + "".join(
            f"  - {{model: {name}.safetensors, weight: {weight}}}\n"
            for name, weight in (("a", 0.3), ("b", 0.7))
        )
    )
    return path


def test_a_recipe_is_the_same_as_options(assert_same, run, two, recipe, tmp_path):
    result = run("merge", recipe, tmp_path / "out")
    assert result.stdout.count("\n") == 1
    assert_same(tmp_path / "out", conjoin.merge(two, "linear", weights=[0.3, 0.7]))
    summary = json.loads(run("merge", recipe, "-o", tmp_path / "more", "--json").stdout)
    assert summary["plan"] == json.loads(run("plan", recipe, "--json").stdout)["hash"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "conjoin.json",
        "model.safetensors",
    }


def test_models_may_be_references_with_adapters(run, two, tmp_path):
    (tmp_path / "lora").mkdir()
    factors = {
        "base_model.model.conv.lora_A.weight": torch.ones(1, 3),
        "base_model.model.conv.lora_B.weight": torch.ones(4, 1),
    }
    save(factors, tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["conv"]})
    )
    out = tmp_path / "out.safetensors"
    run("merge", f"{two[0]}+{tmp_path / 'lora'}", two[0], "-o", out)
    difference = open_checkpoint(out)["conv.weight"] - open_checkpoint(two[0])["conv.weight"]
    torch.testing.assert_close(difference, torch.full((4, 3), 0.5))
    run("verify", out)
    error = run("merge", tmp_path / "nothing", two[0], "-o", tmp_path / "x", code=2).stderr
    assert "models[0]: there is no file" in error


def test_what_a_recipe_says_is_not_said_by_options_too(run, recipe, tmp_path):
    error = run("merge", recipe, tmp_path / "out", "-w", "1,2", "--seed", 0, code=2).stderr
    assert "--weights, --seed cannot be given beside a recipe" in error
    assert "write it into" in error
    assert "recipe.yml OUT" in run("merge", recipe, code=2).stderr
    assert "recipe.yml OUT" in run("merge", recipe, "x", "y", code=2).stderr


def test_errors_of_a_recipe_speak_of_its_keys(run, recipe, tmp_path):
    save({"conv.weight": torch.ones(4, 3).half()}, tmp_path / "b.safetensors", overwrite=True)
    error = run("merge", recipe, tmp_path / "out", code=2).stderr
    assert f"{recipe}:2: " in error
    assert "`keep: {PATTERN: MODEL}` in the recipe" in error
    assert "--" not in error
    bad = {"w": torch.tensor([math.nan])}
    for name in ("a", "b"):
        save(bad, tmp_path / f"{name}.safetensors", overwrite=True)
    error = run("merge", recipe, tmp_path / "out", code=1).stderr
    assert "write `nonfinite: allow`" in error
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_torch_files_are_written_from_recipes_too(assert_same, run, two, recipe, tmp_path):
    run("merge", recipe, tmp_path / "out.pt")
    assert_same(tmp_path / "out.pt", conjoin.merge(two, "linear", weights=[0.3, 0.7]))
    error = run("merge", recipe, tmp_path / "more.pt", "--resume", code=2).stderr
    assert "write a .safetensors file or a folder to resume" in error
    recipe.write_text(recipe.read_text() + "output: {format: torch}\n")
    assert "ends in .pt" in run("merge", recipe, tmp_path / "out", code=2).stderr


@pytest.mark.parametrize("base", [True, False])
def test_a_base_that_the_method_can_do_without(assert_same, run, two, tmp_path, base):
    out, ancestor = tmp_path / "out.safetensors", tmp_path / "base.safetensors"
    save({name: tensor + 1 for name, tensor in open_checkpoint(two[0]).items()}, ancestor)
    options = ["--base", ancestor] if base else []
    run("merge", *two, "-o", out, "-m", "nuslerp", "-w", "1,3", *options)
    given = {"base": ancestor} if base else {}
    assert_same(out, conjoin.merge(two, "nuslerp", weights=[1.0, 3.0], **given))


def test_one_model_and_its_base(assert_same, run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    run("merge", two[0], "--base", two[1], "-m", "nearswap", "--set", "t=0.5", "-o", out)
    assert_same(out, conjoin.merge(two[:1], "nearswap", base=two[1], parameters={"t": 0.5}))
    run("merge", *two, "--base", two[1], "-m", "nearswap", "-o", out, "--overwrite", code=2)
    alone = run("merge", two[0], "-m", "linear", "-o", tmp_path / "new.safetensors", code=2)
    assert "one and --base" in alone.stderr
    run(
        "merge", two[0], "-m", "passthrough", "--set", "scale=2", "-o", tmp_path / "new.safetensors"
    )
    assert_same(
        tmp_path / "new.safetensors", conjoin.merge(two[:1], "passthrough", parameters={"scale": 2})
    )


def test_going_on_and_beginning_again_exclude_each_other(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    found = run("merge", *two, "-o", out, "--resume", "--restart", code=2)
    assert "give one" in found.stderr


def test_weights_that_cannot_be_added_up(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    found = run("merge", *two, "-w", "1e308,1e308", "-o", out, code=2)
    assert "too large to be added up" in found.stderr


def test_one_result_for_each_task(assert_same, run, tmp_path):
    for k, name in enumerate(("base", "a", "b")):
        save({"w": torch.arange(6.0) * k, "v": torch.ones(2) * k}, tmp_path / f"{name}.safetensors")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        "method: emr\nbase: base.safetensors\nmodels: [a.safetensors, b.safetensors]\n"
    )
    out = tmp_path / "out"
    result = run("merge", recipe, out, "--json")
    assert [one["out"] for one in json.loads(result.stdout)] == [
        str(path) for path in sorted(out.iterdir())
    ]
    states = [open_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"]
    base = open_checkpoint(tmp_path / "base.safetensors")
    for k, folder in enumerate(sorted(out.iterdir())):
        expected = conjoin.merge(states, "emr", base=base, parameters={"task": k})
        assert_same(folder, expected)
        assert run("verify", folder).exit_code == 0
    refused = run("merge", recipe, tmp_path / "one.safetensors", code=2)
    assert "one result for each model" in refused.stderr
    assert "exists" in run("merge", recipe, out, code=1).stderr
    assert json.loads(run("merge", recipe, out, "--resume", "--json").stdout or "[]") == []


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS.keys())
def test_every_method_by_options_is_that_from_python(assert_same, row, two, run, tmp_path):
    if row.models == 1 and Need.BASE not in row.needs:
        return  # one model alone is for recipes, where layers are stacked
    models, options, given = two[: row.models or 2], [], {}
    if Need.BASE in row.needs:
        given["base"] = tmp_path / "base.safetensors"
        drawn = {
            name: tensor + 0.5 if tensor.is_floating_point() else tensor
            for name, tensor in open_checkpoint(two[0]).items()
        }
        options += ["--base", save(drawn, given["base"])]
    if Need.WEIGHTS in row.needs:
        given["weights"] = [0.5, 2.0][: len(models)]
        options += ["--weights", ",".join(map(str, given["weights"]))]
    if row.per_task:
        given["parameters"] = {"task": 1}  # else there are several results
        options += ["--set", "task=1"]
    run("merge", *models, "-m", row.name, "-o", tmp_path / "out.safetensors", *options)
    assert_same(tmp_path / "out.safetensors", conjoin.merge(models, row.name, **given))


def test_a_mistake_of_a_method_with_a_result_for_each_task_leaves_no_folder(run, two, tmp_path):
    recipe, out = tmp_path / "recipe.yml", tmp_path / "out"
    recipe.write_text("method: emr\nbase: nowhere\nmodels: [a.safetensors, b.safetensors]\n")
    assert "nowhere" in run("merge", recipe, out, code=2).stderr
    assert not out.exists()
    save({"w": torch.tensor([math.nan])}, tmp_path / "bad.safetensors")
    recipe.write_text("method: emr\nbase: bad.safetensors\nmodels: [bad.safetensors] \n")
    assert "NaN" in run("merge", recipe, out, code=1).stderr
    assert not out.exists()


@pytest.mark.parametrize("vocabulary", ["union", "b", "0"])
def test_rows_are_matched_by_token_without_a_recipe_too(run, tmp_path, vocabulary):
    for name, tokens in (("a", "uv"), ("b", "vux")):
        (tmp_path / name).mkdir()
        rows = torch.tensor([[float(ord(token))] for token in tokens])
        save({"embed_tokens.weight": rows}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
        said = {"model": {"vocab": {token: at for at, token in enumerate(tokens)}}}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(said))
    out = tmp_path / "out"
    models = [str(tmp_path / name) for name in "ab"]
    run("merge", *models, "--vocabulary", vocabulary, "-o", out)
    tokens = {"union": "uvx", "b": "vux", "0": "uv"}[vocabulary]
    found = open_checkpoint(out)["embed_tokens.weight"][:, 0].tolist()
    assert found == [ord(token) for token in tokens]
    result = run("merge", *models, "--vocabulary", "c", "-o", tmp_path / "other", code=2)
    assert "unknown model 'c'" in result.stderr
