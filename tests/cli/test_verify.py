import json

import pytest


@pytest.fixture
def out(run, two, tmp_path):
    out = tmp_path / "out.safetensors"
    run("merge", *two, "-w", "1,3", "-o", out)
    return out


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_result_that_fits(run, out):
    result = run("verify", out)
    assert result.stdout == (
        f"{out}: 6 of 6 tensors made again; they are what the inputs and the recipe give.\n"
    )
    found = json.loads(run("verify", out, "--samples", 2, "--json").stdout)
    assert (found["fits"], len(found["tensors"]), found["of"]) == (True, 2, 6)


def test_one_that_does_not(run, out):
    flip(out)
    result = run("verify", out, code=1)
    assert "elements differ from what is computed" in result.stdout
    assert "6 of 6 tensors made again; they do not fit." in result.stdout
    assert json.loads(run("verify", out, "--all", "--json", code=1).stdout)["fits"] is False


def test_one_whose_input_has_changed(run, two, out):
    flip(two[1])
    assert "is not what was read then" in run("verify", out, "--all", code=1).stdout


def test_one_that_was_made_with_an_entry(run, tmp_path):
    import torch

    for number in (1.0, 3.0):
        content = {"ema": {"w": torch.full((2,), number)}, "model": {"w": torch.ones(2)}}
        torch.save(content, tmp_path / f"{number:.0f}.pt")
    out = tmp_path / "out.safetensors"
    run("merge", tmp_path / "1.pt", tmp_path / "3.pt", "--entry", "ema", "-o", out)
    run("verify", out)


def test_what_has_no_record(run, two):
    error = run("verify", two[0], code=1).stderr
    assert "only results of conjoin merge can be verified" in error
