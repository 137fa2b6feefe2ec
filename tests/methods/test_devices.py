"""Methods on a GPU, and where the caller has another default device."""

import subprocess
import sys

import pytest
import torch

from conjoin import merge

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
RANDOM = ["dare_linear", "dare_ties", "della", "della_linear"]


def _models():
    generator = torch.Generator().manual_seed(0)
    return [{"w": torch.randn(30, 20, generator=generator)} for _ in range(3)]


@pytest.mark.parametrize("method", RANDOM)
def test_random_numbers_do_not_depend_on_the_default_device(method):
    """Nothing can be drawn on the meta device by a generator of the CPU."""
    *models, base = _models()
    settings = {"base": base, "parameters": {"density": 0.5}}
    expected = merge(models, method, **settings)["w"]
    with torch.device("meta"):
        found = merge(models, method, **settings)["w"]
    assert torch.equal(found, expected)


@on_gpu
@pytest.mark.parametrize("method", [*RANDOM, "ties", "tsv", "slerp"])
def test_a_gpu_gives_what_a_cpu_gives(method):
    *models, base = _models()
    settings = {} if method == "slerp" else {"base": base}
    if method in RANDOM or method == "ties":
        settings["parameters"] = {"density": 0.5}
    if method == "slerp":
        settings["parameters"] = {"t": 0.3}
    expected = merge(models, method, **settings)["w"]
    models = [{"w": model["w"].cuda()} for model in models]  # and a base on the CPU
    found = merge(models, method, **settings)["w"]
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-4)


@on_gpu
def test_threads_that_begin_at_once():
    """Torch fails if its linear algebra of GPUs is loaded by two threads at once."""
    script = (
        "import torch; from concurrent.futures import ThreadPoolExecutor\n"
        "from conjoin.methods.svd import find_directions\n"
        "matrices = [torch.randn(64, 32, dtype=torch.float64, device='cuda') for _ in range(16)]\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    list(pool.map(lambda m: find_directions(m, 4, eps=1e-7), matrices))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
