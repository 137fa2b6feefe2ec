"""LiNeS is a gradient on `scale`: layer l of L is scaled by a + b (l - 1) / (L - 1).

Wang et al., LiNeS: post-training layer scaling prevents forgetting and enhances model merging,
ICLR 2025 (arXiv:2410.17146). The authors scale what is in no block by a.
"""

import pytest
import torch

from conjoin.methods import METHODS, Need

LAYERS, A, B = 5, 0.25, 0.5
SCALE = f"{{gradient: [{A}, {A + B}], before: {A}, after: {A}}}"
# What the whole change is multiplied by; ExPO's is 1 + alpha.
SCALES = {"expo": "alpha"}


def _share(name):
    parts = name.split(".")
    return A + B * int(parts[2]) / (LAYERS - 1) if "layers" in parts else A


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "breadcrumbs_ties", "sce", "magmax"])
def test_a_gradient_on_scale_is_the_paper_s_formula(model, merged, method):
    base = model("zero", layers=LAYERS)
    model("a", layers=LAYERS), model("b", layers=LAYERS)
    text = f"method: {method}\nbase: zero\nmodels: [a, b]\n"
    plain, scaled = merged(text), merged(f"{text}parameters: {{scale: {SCALE}}}\n")
    names = [name for name in base if base[name].is_floating_point()]
    assert {_share(name) for name in names} >= {A, A + B / 2, A + B}
    for name in names:
        expected = base[name] + _share(name) * (plain[name] - base[name])
        torch.testing.assert_close(scaled[name], expected, rtol=1e-5, atol=1e-5)


def test_the_head_can_have_the_last_scale(model, merged):
    base, a = model("zero"), model("a")
    scale = f"{{gradient: [{A}, {A + B}], before: {A}, after: {A + B}}}"
    found = merged(
        "method: task_arithmetic\nbase: zero\nmodels: [a]\n" + f"parameters: {{scale: {scale}}}\n"
    )
    for name, share in (("model.embed_tokens.weight", A), ("lm_head.weight", A + B)):
        expected = base[name] + share * (a[name] - base[name])
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [
    "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs",
    "breadcrumbs_ties", "magmax", "sce", "ram", "ramplus_tl", "expo", "consensus", "tall_mask",
    "emr",
])  # fmt: skip
def test_every_method_of_task_vectors_has_a_parameter_for_it(name):
    row = METHODS[name]
    assert Need.BASE in row.needs
    assert isinstance(row.defaults[SCALES.get(name, "scale")], float)
