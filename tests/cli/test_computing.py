"""Torch is imported when it is needed, and garbage is looked for as before."""

import gc
import subprocess
import sys

import pytest
import torch

from conjoin.checkpoints import save


def lines_of(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.parametrize("looks", [True, False])
def test_garbage_is_looked_for_as_before(looks):
    code = (
        "import gc, sys\n"
        "from conjoin.deferred import has_torch, torch\n"
        f"gc.enable() if {looks} else gc.disable()\n"
        "found = []\n"
        "gc.callbacks.append(lambda phase, info: found.append(phase))\n"
        "before = has_torch()\n"
        "torch.zeros(1)\n"
        "print(before, has_torch(), gc.isenabled(), len(found) < 10)\n"
        "print(gc.get_threshold())\n"
    )
    found, thresholds = lines_of(code)
    assert found == f"False True {looks} True"
    assert thresholds == str(gc.get_threshold())


def has_torch_after(arguments):
    code = (
        "import sys\n"
        "from conjoin.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    print('torch' in sys.modules, end.code)\n"
    )
    return lines_of(code)[-1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["methods", "mean"], 0),
        (["schema"], 0),
        (["merge", "--mistyped"], 2),
        (["merge", "--help"], 0),
        (["align", "--help"], 0),
    ],
)
def test_what_needs_no_tensors_does_not_wait_for_torch(arguments, code):
    assert has_torch_after(arguments) == f"False {code}"


def test_a_look_at_headers_does_not_wait_for_torch(tmp_path):
    path = str(save({"fc.weight": torch.ones(2, 3)}, tmp_path / "a.safetensors"))
    assert has_torch_after(["inspect", path, "--no-data"]) == "False 0"
    assert has_torch_after(["inspect", path]) == "True 0"


SIMPLE = {
    "sum": "",
    "mean": "",
    "linear": "",
    "task_arithmetic": "base: base.safetensors",
    "slerp": "",
    "nuslerp": "",
    "nearswap": "base: base.safetensors",
    "karcher": "",
    "multislerp": "",
    "model_stock": "base: base.safetensors",
}


@pytest.mark.parametrize("method", SIMPLE)
def test_simple_methods_merge_files_without_torch(method, tmp_path):
    pytest.importorskip("conjoin.compiled")
    from conjoin.compiled import load_library

    if load_library() is None:
        pytest.skip("this installation has no compiled part")
    for seed, name in enumerate(("a", "b", "base")):
        generator = torch.Generator().manual_seed(seed)
        state = {
            "w": torch.randn(40, 70, generator=generator).bfloat16(),
            "norm": torch.rand(7, generator=generator),
        }
        save(state, tmp_path / f"{name}.safetensors")
    recipe = tmp_path / "recipe.yml"
    models = "a.safetensors" if method == "nearswap" else "a.safetensors, b.safetensors"
    recipe.write_text(f"method: {method}\nmodels: [{models}]\n{SIMPLE[method]}\n")
    for command in ("plan", "merge"):
        out = [str(tmp_path / "out")] if command == "merge" else []
        assert has_torch_after([command, str(recipe), *out]) == "False 0"


def test_numbers_that_are_not_finite_are_found_by_torch_then(tmp_path):
    for name, value in (("a", 1.0), ("b", torch.nan)):
        save({"w": torch.full((5,), value)}, tmp_path / f"{name}.safetensors")
    models = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    out = str(tmp_path / "out.safetensors")
    assert has_torch_after(["merge", *models, "-o", out, "--workers", "1"]) == "True 1"
    assert (
        has_torch_after(["merge", *models, "-o", out, "--workers", "1", "--allow-nonfinite"])
        == "True 0"
    )
