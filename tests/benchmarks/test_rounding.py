"""The benchmark of rounding counts what it says."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.methods import MERGEKIT_DEFAULTS, MERGEKIT_NAMES, METHODS, Method

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(FOLDER))
    try:
        import rounding

        yield rounding
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("rounding", None)


@given(value=st.floats(-1e30, 1e30).filter(lambda v: abs(v) > 1e-30), data=st.data())
def test_rounding_is_to_the_nearest_and_of_two_to_the_even_one(benchmark, value, data):
    near = torch.tensor(value).bfloat16()
    # All numbers are next to some bfloat16; halfway places and their neighbours are the hard ones.
    step = torch.nextafter(near, near * 2) - near
    half = near.double() + step.double() / 2
    hard = data.draw(st.sampled_from([half, half * (1 + 2**-50), half * (1 - 2**-50)]))
    for exact in (torch.tensor(value, dtype=torch.float64), hard):
        found = benchmark.rounded(exact)
        assert found.dtype == torch.bfloat16
        below = torch.nextafter(found, torch.tensor(-torch.inf).bfloat16())
        above = torch.nextafter(found, torch.tensor(torch.inf).bfloat16())

        def distance(one, exact=exact):
            return abs(Fraction(one.item()) - Fraction(exact.item()))

        for other in (below, above):
            assert distance(found) <= distance(other)
            if distance(found) == distance(other):
                assert found.view(torch.int16).item() % 2 == 0


def test_rounding_twice_is_another_thing(benchmark):
    """Above the middle of 1 and the next bfloat16 by less than float32 has: torch says 1."""
    exact = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert exact.bfloat16().item() == 1
    assert benchmark.rounded(exact).item() == 1 + 2**-7


def test_a_share_by_hand(benchmark):
    exact = torch.tensor([1.0, 2.0, 3.0, 1.001], dtype=torch.float64)
    found = torch.tensor([1.0, 2.0, 3.015625, 1.0]).bfloat16()
    assert benchmark.differing(found, exact) == 0.25


def test_arithmetic_in_bfloat16_is_seen(benchmark, monkeypatch):
    base, models = benchmark.make_models(100, 0.002, 0)
    assert all(model.dtype == torch.bfloat16 for model in [base, *models])

    def coarse(tensors):
        total = tensors[0].bfloat16()
        for tensor in tensors[1:]:
            total = total + tensor.bfloat16()
        return total.float() / len(tensors) if tensors[0].dtype == torch.float32 else _mean(tensors)

    monkeypatch.setitem(METHODS, "coarse", Method("coarse", coarse, "a mean"))
    assert benchmark.share_of_ours(benchmark.Case(METHODS["coarse"]), models, base) > 0.05
    assert benchmark.share_of_ours(benchmark.Case(METHODS["mean"]), models, base) < 0.001


def _mean(tensors):
    return torch.stack(list(tensors)).mean(0)


def test_every_method_has_a_line_and_what_is_elementwise_is_rounded_well(
    benchmark, tmp_path, capsys
):
    file = tmp_path / "shares.json"
    assert benchmark.main(["--elements", "2500", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert list(report["shares"]) == list(METHODS)
    assert report["elements"] == 2500
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == list(METHODS)
    # 0.1 % is the aim; of 2500 entries that is two or three.
    for kind in ("shares", "shares of short weights"):
        bad = {n: s for n, s in report[kind].items() if METHODS[n].elementwise and s > 0.0012}
        assert not bad, kind
    assert {"linear", "ties"} <= set(report["shares of short weights"])
    assert "mean" not in report["shares of short weights"]


def test_a_table_for_a_page(benchmark, capsys):
    benchmark.main(["--elements", "100", "--only", "mean", "--markdown"])
    assert capsys.readouterr().out.splitlines() == [
        "| method | merged | conjoin | short weights | mergekit |",
        "|---|---|---:|---:|---:|",
        "| mean | in blocks | 0.0000 % | | |",
    ]


@pytest.mark.parametrize("name", MERGEKIT_DEFAULTS)
def test_mergekit_is_asked_in_its_own_words(benchmark, name):
    said = benchmark.request(benchmark.Case(METHODS[name]))
    renamed = set(MERGEKIT_NAMES[name].values()) - set(MERGEKIT_NAMES[name])
    assert not renamed & set(said["parameters"])
    assert len(said["models"]) == (METHODS[name].models or 3)
    assert (said["base"] is None) == (not METHODS[name].takes_base and name != "slerp")


def test_what_mergekit_has_made_is_counted(benchmark, tmp_path, monkeypatch):
    """A stand-in for its process: one entry of four is wrong."""
    base, models = benchmark.make_models(2, 0.002, 0)

    def run(command, **_):
        folder = Path(command[-1])
        assert list(json.loads((folder / "requests.json").read_text())) == ["linear"]
        given = torch.load(folder / "models.pt", weights_only=True)
        assert torch.equal(given["base"], base)
        found = given["0"].clone()
        found[0, 0] *= 2
        torch.save({"bfloat16": found, "float64": given["0"].double()}, folder / "linear.pt")
        return benchmark.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    cases = [benchmark.Case(METHODS[name]) for name in ("linear", "mean")]  # it has no mean
    shares = benchmark.shares_of_mergekit(Path("python"), cases, models, base, tmp_path)
    assert shares == {"linear": 0.25}


def test_mergekit_gets_what_the_request_says(benchmark, tmp_path, monkeypatch):
    """With a stand-in for mergekit, in its own process."""
    package = tmp_path / "mergekit" / "merge_methods"
    package.mkdir(parents=True)
    (package / "api.py").write_text(
        "import torch\n"
        "def merge_tensors(tensors, method, *, parameters, ids, base_index, out_dtype):\n"
        "    assert len({t.dtype for t in tensors}) == 1 and tensors[0].dtype == out_dtype\n"
        "    assert method == 'dare_linear' and ids[base_index] == 'base'\n"
        "    weight, density = parameters['weight'], parameters['density']\n"
        "    found = tensors[base_index]\n"
        "    for i, tensor in zip(ids[:-1], tensors[:-1], strict=True):\n"
        "        mask = torch.bernoulli(torch.full_like(tensor, density))\n"
        "        found = found + weight[i] * mask * (tensor - tensors[base_index])\n"
        "    return found\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    base, models = benchmark.make_models(30, 0.002, 0)
    case = benchmark.Case(METHODS["dare_linear"])
    python = Path(sys.executable)
    shares = benchmark.shares_of_mergekit(python, [case], models, base, tmp_path)
    # It is done in bfloat16, so some are off; with other masks more than half would be.
    assert 0 < shares["dare_linear"] < 0.3


def test_a_python_without_mergekit_is_told(benchmark, tmp_path):
    base, models = benchmark.make_models(2, 0.002, 0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named mergekit' >&2\nexit 1\n")
    python.chmod(0o755)
    cases = [benchmark.Case(METHODS["linear"])]
    with pytest.raises(RuntimeError, match="(?s)ended with 1.*No module named mergekit"):
        benchmark.shares_of_mergekit(python, cases, models, base, tmp_path)


@pytest.mark.parametrize("wrong", [["--only", "nothing"], ["--elements", "0"]])
def test_options_that_measure_nothing_are_refused(benchmark, wrong):
    with pytest.raises(SystemExit):
        benchmark.main(wrong)
