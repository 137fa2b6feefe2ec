import json

import pytest
import torch

from conjoin.checkpoints import save


@pytest.fixture
def recipe(tmp_path):
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        names = [f"h.{n}.{part}.weight" for n in range(3) for part in "uv"]
        tensors = {name: torch.randn(2, 2, generator=generator) for name in names}
        tensors["norm.running_mean"] = torch.randn(2, generator=generator)
        save(tensors, tmp_path / f"{name}.safetensors")
    path = tmp_path / "recipe.yml"
    path.write_text(
        "method: ties\nbase: a.safetensors\nmodels:\n"
        "  - {model: b.safetensors, weight: [0.5, 1], density: 0.4}\n"
    )
    return path


def test_what_will_happen_in_a_few_lines(run, recipe):
    result = run("plan", recipe)
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["method"].startswith("method  ties: w_0 + s mean of")
    assert lines["models"].endswith("b.safetensors")
    assert lines["base"].endswith("a.safetensors")
    assert lines["layers"].endswith("h.* (3)")
    assert "7 tensors, 26 elements, 6 ties, 1 pool" in lines["result"]
    # the base is not read for what is pooled
    assert lines["reads"].endswith("200 B, 2 times or more")
    assert "in 1 file: model.safetensors" in lines["writes"]


def test_every_tensor(run, recipe):
    table = run("plan", recipe, "--tensors").stdout
    rows = {
        line.split()[0]: line for line in table.splitlines() if line.startswith(("h.", "norm."))
    }
    assert list(rows) == [
        *(f"h.{n}.{p}.weight" for n in range(3) for p in "uv"),
        "norm.running_mean",
    ]
    assert " 0.75 " in rows["h.1.u.weight"]
    assert "density=0.4" in rows["h.1.u.weight"]
    assert rows["norm.running_mean"].split()[1] == "pool"


def test_json(run, recipe):
    found = json.loads(run("plan", recipe, "--json").stdout)
    assert (found["method"], found["base"]) == ("ties", "a.safetensors")
    assert (found["tensors"], found["elements"], found["passes"]) == (7, 26, 2)
    weights = [record["weights"] for record in found["records"][:6]]
    assert weights == [[0.5], [0.5], [0.75], [0.75], [1.0], [1.0]]
    assert len(found["hash"]) == 64
    assert run("plan", recipe, "--json").stdout == run("plan", recipe, "--json").stdout


def test_nothing_is_written(run, recipe, tmp_path):
    before = sorted(tmp_path.iterdir())
    run("plan", recipe)
    assert sorted(tmp_path.iterdir()) == before


def test_errors_have_their_lines(run, recipe, tmp_path):
    recipe.write_text("method: tiez\nmodels: [a.safetensors]\nsead: 1\n")
    error = run("plan", recipe, code=2).stderr
    assert f"{recipe}:1: unknown method 'tiez'; did you mean 'ties'?" in error
    assert f"{recipe}:3: unknown key 'sead'; did you mean 'seed'?" in error
    assert "Traceback" not in error
    assert "there is no recipe" in run("plan", tmp_path / "recip.yml", code=2).stderr


def test_notes_are_on_stderr(run, recipe):
    result = run("plan", recipe)
    assert "Note: BatchNorm statistics are pooled" not in result.stdout
    text = recipe.read_text().replace("ties", "mean").replace("base: a.safetensors\n", "")
    recipe.write_text(text.split("models")[0] + "models: [a.safetensors, b.safetensors]\n")
    assert "Note: BatchNorm statistics are pooled" in run("plan", recipe).stderr
