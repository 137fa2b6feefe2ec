import copy
import json
import sys
from pathlib import Path

import pytest
import torch

import conjoin
from conjoin.checkpoints import open_checkpoint, save
from conjoin.symmetry import Permutations, find_symmetries

NET = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(),
                         nn.Linear(7, 3))


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3))


def loaders():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(80, 4, generator=generator)
    pairs = [(part, torch.zeros(len(part))) for part in x.split(20)]
    return {"task": {"train": None, "test": pairs}}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Files of a network and of a shuffled copy of it."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    space = {}
    exec(NET, space)
    torch.manual_seed(0)
    net = space["Net"]().eval()
    net[1].running_mean.copy_(torch.rand(9))
    planted = find_symmetries(net, torch.randn(2, 4)).sample(torch.Generator().manual_seed(0))
    save(net, "a.safetensors")
    save(planted.apply(net), "b.safetensors")
    planted.save("planted.safetensors")
    save(space["Flat"](), "flat.safetensors")
    yield net, planted
    for name in set(sys.modules) - set(before):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


GIVEN = ("align", "b.safetensors", "--to", "a.safetensors")


@pytest.mark.parametrize(
    "how",
    [
        ["--model", "net.py:Net", "--inputs", "4"],
        ["--model", "net.py:Net", "--data", "net.py:loaders"],
        ["--model", "net.py:Net", "--data", "net.py:loaders", "-m", "mixed", "--examples", "50"],
        ["--symmetries", "planted.safetensors"],
    ],
    ids=["weights", "activations", "mixed", "files"],
)
def test_a_shuffled_copy_is_put_back(run, project, how):
    net, planted = project
    files = ("-o", "c.safetensors", "--save-order", "order.safetensors")
    result = run(*GIVEN, *how, *files, "--json")
    found, order = open_checkpoint("c.safetensors"), Permutations.load("order.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())
    assert order == planted.inverse()
    report = json.loads(result.stdout)
    assert report["objective"] == pytest.approx(1)
    assert report["before"] < 0.9
    assert {group["size"] for group in report["groups"]} == {9, 7}
    assert all(group["after"] == pytest.approx(1) for group in report["groups"])
    assert (report["out"], report["order"]) == ("c.safetensors", "order.safetensors")
    assert report["starts"][0]["start"] in ("greedy", "sequential", "random")


@pytest.mark.parametrize("examples", [41, 50])
def test_a_learned_order_changes_no_output(run, project, examples):
    # One in four batches is held out, and none has one example, of which there are no statistics.
    net, _ = project
    how = ("--model", "net.py:Net", "--data", "net.py:loaders", "-m", "learned")
    result = run(*GIVEN, *how, "--examples", examples, "-o", "c.safetensors", "--json")
    aligned = copy.deepcopy(net)
    aligned.load_state_dict(dict(open_checkpoint("c.safetensors")))
    inputs = torch.randn(30, 4)
    torch.testing.assert_close(aligned(inputs), net(inputs))
    starts = [start["start"] for start in json.loads(result.stdout)["starts"]]
    assert set(starts) <= {"learned", "greedy", "sequential", "random"}


def test_the_table(run, project):
    result = run(*GIVEN, "--model", "net.py:Net", "--inputs", "4")
    assert "2 groups; mean cosine of layers 0." in result.stdout
    assert "1 after (" in result.stdout
    assert "0.weight:0" in result.stdout
    assert "100 %" in result.stdout
    assert {path.name for path in Path().glob("*.safetensors")} == {
        *("a.safetensors", "b.safetensors", "flat.safetensors", "planted.safetensors")
    }


def test_a_file_that_is_there_is_kept(run, project):
    before = (open_checkpoint("a.safetensors")["0.weight"]).clone()
    how = ("--symmetries", "planted.safetensors")
    for option in ("-o", "--save-order"):
        result = run(*GIVEN, *how, option, "a.safetensors", code=1)
        assert "a.safetensors" in result.stderr
        assert "--overwrite" in result.stderr
    assert torch.equal(open_checkpoint("a.safetensors")["0.weight"], before)
    run(*GIVEN, *how, "-o", "b.safetensors", "--overwrite")
    assert torch.equal(open_checkpoint("b.safetensors")["0.weight"], before)
    merged = conjoin.merge([open_checkpoint(f"{name}.safetensors") for name in "ab"])
    assert torch.equal(merged["0.weight"], before)


def test_nothing_to_reorder(run, project):
    flat = ("align", "flat.safetensors", "--to", "flat.safetensors", "--model", "net.py:Flat")
    result = run(*flat, "--inputs", "4")
    assert "Nothing in this network can be reordered" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --model net.py:Net"),
        (["--model", "net.py:Net"], "--inputs 3,32,32 or --data data.py:loaders"),
        (["--symmetries", "planted.safetensors", "--inputs", "4"], "name it with --model"),
        (
            ["--symmetries", "planted.safetensors", "-m", "mixed"],
            "--method mixed runs the networks; name their class",
        ),
        (
            ["--model", "net.py:Net", "--inputs", "4", "-m", "activations"],
            "compares activations on real examples; give --data",
        ),
        (
            ["--symmetries", "planted.safetensors", "--save-order", "o.pt"],
            "call it o.safetensors",
        ),
    ],
)
def test_what_cannot_be_used_is_said(run, project, arguments, message):
    result = run(*GIVEN, *arguments, code=2)
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--symmetries", "a.safetensors"], "a.safetensors has no permutations"),
        (["--model", "net.py:Flat", "--inputs", "4"], "b.safetensors does not fit Flat"),
    ],
)
def test_files_that_do_not_fit(run, project, arguments, message):
    result = run(*GIVEN, *arguments, code=1)
    assert message in " ".join(result.stderr.split())


def test_a_file_with_a_prefix_could_not_keep_it(run, project):
    net, _ = project
    torch.save({f"model.{name}": t for name, t in net.state_dict().items()}, "p.pt")
    how = ["--to", "a.safetensors", "--model", "net.py:Net", "--inputs", "4"]
    result = run("align", "p.pt", *how, "-o", "c.safetensors", code=1)
    assert "p.pt has a prefix before all names of Net" in " ".join(result.stderr.split())


@pytest.fixture
def third(project):
    """One more shuffled copy, in a file of torch.save."""
    net, planted = project
    save(planted.apply(planted.apply(net)), "c.pt")
    return project


MANY = ("align", "a.safetensors", "b.safetensors", "c.pt")


@pytest.mark.parametrize(
    "how",
    [
        ["--model", "net.py:Net", "--inputs", "4"],
        ["--model", "net.py:Net", "--data", "net.py:loaders"],
        ["--symmetries", "planted.safetensors"],
    ],
    ids=["weights", "activations", "files"],
)
def test_several_files_are_put_into_the_order_of_the_first(run, third, how):
    net, planted = third
    result = run(*MANY, *how, "-o", "aligned", "--save-order", "orders", "--json")
    names = ("a.safetensors", "b.safetensors", "c.pt")
    assert {path.name for path in Path("aligned").iterdir()} == set(names)
    for name in names:
        found = open_checkpoint(Path("aligned", name))
        assert all(torch.equal(found[key], tensor) for key, tensor in net.state_dict().items())
    back = planted.inverse()
    orders = [Permutations.load(Path("orders", f"{name}.safetensors")) for name in "abc"]
    assert orders[0].is_identity()
    assert orders[1:] == [back, back.after(back)]
    reports = json.loads(result.stdout)["models"]
    assert [report["model"] for report in reports] == list(names)
    assert [report["to"] for report in reports] == [None] * 3
    assert [report["out"] for report in reports] == [str(Path("aligned", name)) for name in names]
    assert all(report["objective"] == pytest.approx(1) for report in reports)


def test_a_table_for_each_of_several_files(run, third):
    before = set(Path().rglob("*"))
    result = run(*MANY, "--symmetries", "planted.safetensors")
    assert [line for line in result.stdout.splitlines() if line.endswith(":")] == [
        f"{name}:" for name in MANY[1:]
    ]
    assert result.stdout.count("2 groups; mean cosine of layers") == 3
    assert set(Path().rglob("*")) == before


def test_what_cannot_be_done_with_several_files_is_said_and_nothing_is_written(run, third):
    before = set(Path().rglob("*"))
    how = ("--symmetries", "planted.safetensors")
    for arguments, message in [
        (["align", "a.safetensors"], "a reference, --to REFERENCE, or two or more files"),
        ([*MANY, "--to", "a.safetensors"], "--to is for one file, and 3 are given"),
        ([*MANY, "-o", "out.safetensors"], "--out out.safetensors is to be a folder"),
        ([*MANY, "--save-order", "a.safetensors"], "--save-order a.safetensors is to be a folder"),
        ([*MANY, "-o", "x/y"], "there is no folder x"),
        ([*MANY, "b.safetensors", "-o", "x"], "two files would be written as"),
        ([*MANY, "-o", "x", "--save-order", "x"], "give two folders"),
    ]:
        result = run(*arguments, *how, code=2)
        assert message in " ".join(result.stderr.split())
    result = run(*MANY[:3], "flat.safetensors", *how, "-o", "x", code=1)
    assert "model 2" in result.stderr
    assert set(Path().rglob("*")) == before
    Path("aligned").mkdir()
    save({"x": torch.ones(1)}, "aligned/b.safetensors")
    result = run(*MANY, *how, "-o", "aligned", code=1)
    assert "--overwrite" in result.stderr
    run(*MANY, *how, "-o", "aligned", "--overwrite")
    assert len(open_checkpoint("aligned/b.safetensors")) > 1


def test_help_says_what_is_written_and_shows_examples(run):
    text = " ".join(run("align", "--help").stdout.split())
    assert "Writes OUT" in text
    assert text.count("conjoin align ") >= 2


def test_files_of_other_structure(run, project):
    result = run(
        *("align", "flat.safetensors", "--to", "a.safetensors"),
        *("--symmetries", "planted.safetensors"),
        code=1,
    )
    assert "have different tensors" in result.stderr
