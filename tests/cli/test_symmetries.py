import json
import logging
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

import conjoin.symmetry
from conjoin.checkpoints import open_checkpoint, save
from conjoin.symmetry import Group, Layout, Permutations, Symmetries
from conjoin.symmetry.groups import Part
from conjoin.symmetry.proof import Proof

NET = """
import torch
from torch import nn

from parts import Attention


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def sized(width):
    return Net()


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.attention, self.out = nn.Embedding(9, 8), Attention(8, 2), nn.Linear(8, 5)

    def forward(self, tokens):
        return self.out(self.attention(self.tokens(tokens)))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, mask, scale):
        return self.last(self.first(x).relu()) * mask * scale[:, None]


class Branching(Net):
    def forward(self, x):
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)


class Spectrum(Net):
    def forward(self, x):
        y = super().forward(x)
        return torch.linalg.svdvals(y[:, None] * y[:, :, None])


def loaders():
    return {"digits": {"train": None, "test": (torch.zeros(5, 4), torch.zeros(5))}}


def raising():
    raise RuntimeError("my own mistake")
"""

PARTS = """
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, c))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Stand in a folder with networks; what is imported from it is forgotten afterwards."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def found(*groups, unknown=None, guilty=(), pinned=None, tensors=None):
    """What `find_symmetries` could have found."""
    layout = Layout({group.name: group for group in groups}, tensors or {}, pinned or {})
    return Symmetries(layout, Proof(2.5e-16, tuple(guilty)), unknown or {}, 1.25, 750, 1000)


@pytest.fixture
def give(monkeypatch):
    """Give a result without finding it; the calls are noted."""

    def give(result):
        calls = []

        def find(model, inputs, *, seed):
            calls.append((model, inputs, seed))
            return result

        monkeypatch.setattr(conjoin.symmetry, "find_symmetries", find)
        return calls

    return give


def line_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def test_json_with_weights_and_a_reordering(run, project):
    net = network()
    save(net, project / "a.safetensors")
    options = ("--inputs", "4", "--weights", "a.safetensors", "--save", "order.safetensors")
    report = json.loads(run("symmetries", "net.py:Net", *options, "--json").stdout)
    assert 0 <= report.pop("error") < 1e-9
    assert report.pop("seconds") > 0
    assert report == {
        "model": "net.py:Net",
        "weights": "a.safetensors",
        "inputs": [{"name": None, "shape": [2, 4], "dtype": "float32"}],
        "seed": 0,
        "groups": [
            {
                "name": "0.weight:0",
                "size": 6,
                "within": [],
                "copies": [],
                "members": [["0.weight", 0], ["0.bias", 0], ["2.weight", 1]],
                "proven": True,
            }
        ],
        "pinned": {"an input": ["0.weight"], "an output": ["2.weight", "2.bias"]},
        "unknown": {},
        "parameters": 51,  # 24 + 6 + 18 + 3
        "movable": 48,
        "share": 48 / 51,
        "saved": "order.safetensors",
    }
    order = Permutations.load("order.safetensors")
    assert not order.is_identity()
    x = torch.randn(5, 4)
    assert torch.allclose(order.apply(net)(x), net(x), atol=1e-6)


def test_a_table_of_heads(run, project):
    text = run("symmetries", "net.py:Attending", "--inputs", "7:9", "--all").stdout
    assert line_of(text, "attention.qkv.weight:0 ").split() == [
        "attention.qkv.weight:0", "2", "proven",
        "attention.qkv.weight:0,", "attention.qkv.bias:0,", "attention.out.weight:1",
    ]  # fmt: skip
    assert line_of(text, "attention.qkv.weight:0#1 ").split()[1:4] == ["4", "x2", "proven"]
    assert line_of(text, "an output ").split()[2:] == ["out.weight,", "out.bias"]
    # Of width: the embedding's 72, attention's 216 + 72, 40 of the head; its 5 biases stay.
    assert "5 groups; 400 of 405 parameters can be reordered (98.8 %)." in text
    assert float(line_of(text, "Proof: ").split()[-2]) < 1e-9
    assert line_of(text, "Found in ").endswith(" s.")


def test_an_unknown_operation_is_named(run, project):
    result = run("symmetries", "net.py:Spectrum", "--inputs", "4")
    assert "No rule for aten._linalg_svd, found once; what it touches is pinned." in result.stdout
    assert line_of(result.stdout, "no rule for aten._linalg_svd ").endswith("2.weight, 2.bias")
    assert "1 group;" in result.stdout
    assert result.stderr == ""


def test_inputs_by_name(run, project):
    options = ("--inputs", "x=4", "--inputs", "mask=3:2", "--inputs", "scale=scalar")
    report = json.loads(run("symmetries", "net.py:Named", *options, "--json").stdout)
    assert [one["shape"] for one in report["inputs"]] == [[2, 4], [2, 3], [2]]
    assert [group["size"] for group in report["groups"]] == [6]


MANY = Group("a:0", 1234, (), (), tuple((f"{letter}", 0) for letter in "abcde"))
INNER = Group("b:1", 6, ("a:0", "c:0"), (1234, 4), (("b", 1),))


def test_long_lists_are_shortened_and_shown_in_full(run, project, give):
    give(found(MANY, INNER, pinned={"an input": tuple("abcd")}))
    text = run("symmetries", "net.py:Net", "--inputs", "4").stdout
    assert line_of(text, "a:0").split() == [
        "a:0", "1,234", "proven", "a:0,", "b:0,", "c:0", "+", "2", "more"
    ]  # fmt: skip
    assert line_of(text, "b:1").split() == ["b:1", "6", "x1,234", "x4", "proven", "b:1"]
    assert line_of(text, "an input").endswith("a, b, c + 1 more")
    assert "2 groups; 750 of 1,000 parameters can be reordered (75.0 %)." in text
    assert "largest relative error of the outputs 2.5e-16 (float64)." in text
    assert "Found in 1.2 s." in text or "Found in 1.3 s." in text
    text = run("symmetries", "net.py:Net", "--inputs", "4", "--all").stdout
    assert "a:0, b:0, c:0, d:0, e:0" in text
    assert "more" not in text


def test_a_failed_proof_is_shown_as_an_error_of_ours(run, project, give):
    part = Part("atom", "b:0", 8)
    tensors = {
        "a": (Part("atom", "a:0", 4), Part("product", parts=(part, Part("atom", "a:1#1", 2)))),
        "b": (part,),
        "c": (Part("sum", parts=(Part("atom", "c:0", 4), part)), part),
    }
    group = Group("a:0", 4, (), (), (("a", 0),))
    give(found(group, tensors=tensors, guilty=["b:0"]))
    result = run("symmetries", "net.py:Net", "--inputs", "4")
    assert line_of(result.stdout, "a:0").split()[2] == "proven"
    assert line_of(result.stdout, "b:0").split() == [
        "b:0", "8", "failed,", "pinned", "a:1,", "b:0,", "c:0", "+", "1", "more"
    ]  # fmt: skip
    assert "1 group;" in result.stdout
    assert "error of conjoin's rules" in result.stderr
    report = json.loads(run("symmetries", "net.py:Net", "--inputs", "4", "--json").stdout)
    assert [(one["name"], one["size"], one["proven"]) for one in report["groups"]] == [
        ("a:0", 4, True),
        ("b:0", 8, False),
    ]
    assert report["groups"][1]["members"] == [["a", 1], ["b", 0], ["c", 0], ["c", 1]]


def test_nothing_can_be_reordered(run, project, give):
    give(found(pinned={"an input": ("weight",)}, unknown={"aten.strange": 1234}))
    result = run("symmetries", "net.py:Net", "--inputs", "4")
    assert "0 groups;" in result.stdout
    assert "Proof" not in result.stdout
    assert "No rule for aten.strange, found 1,234 times;" in result.stdout
    options = ("--inputs", "4", "--save", "order.safetensors")
    failed = run("symmetries", "net.py:Net", *options, code=2)
    assert "nothing in this network can be reordered" in failed.stderr
    assert not (project / "order.safetensors").exists()


def test_names_cannot_reach_the_terminal_raw(run, project, give):
    hostile = "a[red]b\x1b[31m\u202e"
    give(found(Group(f"{hostile}:0", 4, (), (), ((hostile, 0),)), pinned={"why": (hostile,)}))
    text = run("symmetries", "net.py:Net", "--inputs", "4").stdout
    assert text.count("a[red]b\\x1b[31m\\u202e") == 3
    assert not {"\x1b", "\u202e"} & set(text)


def test_what_is_run_and_proven(run, project, give):
    """The weights of the file, the examples that are asked for, and the seed."""
    net = network()
    torch.save({"ema": net.state_dict(), "model": network().state_dict()}, project / "last.ckpt")
    calls = give(found(MANY))
    options = ("--weights", "last.ckpt", "--entry", "ema", "--seed", "5")
    run("symmetries", "net.py:Net", "--inputs", "4", "--batch", "3", *options)
    run("symmetries", "net.py:Net", "--data", "net.py:loaders", "--batch", "4")
    for _ in range(2):
        run("symmetries", "net.py:Net", "--inputs", "4", "--seed", "1")
    (model, inputs, seed), (_, loaded, _), *again = calls
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), net.parameters(), strict=True))
    assert (inputs.shape, seed) == ((3, 4), 5)
    assert torch.equal(loaded, torch.zeros(4, 4))
    for (one, x, seed), (other, y, _) in pairwise(again):
        assert seed == 1
        assert torch.equal(x, y)
        assert torch.equal(one[0].weight, other[0].weight)  # of weights that are drawn, too


def test_the_seed_decides_what_is_saved(run, project, give):
    tensors = {"a": (Part("atom", "a:0", 50),)}
    give(found(Group("a:0", 50, (), (), (("a", 0),)), tensors=tensors))
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        options = ("--seed", seed, "--save", f"{name}.safetensors")
        run("symmetries", "net.py:Net", "--inputs", "4", *options)
    one, two, three = (
        open_checkpoint(f"{n}.safetensors")["order.0"] for n in ("one", "two", "three")
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert one.sort().values.tolist() == list(range(50))
    options = ("--inputs", "4", "--save", "one.safetensors", "--seed", "1")
    failed = run("symmetries", "net.py:Net", *options, code=1)
    assert "pass --overwrite" in failed.stderr
    assert torch.equal(open_checkpoint("one.safetensors")["order.0"], two)
    text = run("symmetries", "net.py:Net", *options, "--overwrite").stdout
    assert "A random reordering: one.safetensors" in text
    assert torch.equal(open_checkpoint("one.safetensors")["order.0"], three)


def test_a_model_that_does_not_take_the_inputs(run, project):
    result = run("symmetries", "net.py:Attending", "--inputs", "7", code=2)
    assert "Attending does not run on the example inputs [[2, 7]]" in result.stderr
    assert "return self.out(self.attention(self.tokens(tokens)))" in result.stderr
    assert "src/conjoin" not in result.stderr
    result = run("symmetries", "net.py:Net", "--inputs", "5", code=2)
    assert "does not run on the example inputs" in result.stderr


def test_a_model_that_cannot_be_traced(run, project):
    result = run("symmetries", "net.py:Branching", "--inputs", "4", code=1)
    assert result.stderr.startswith("Error: Branching cannot be traced")  # nothing of torch's own
    place, code = result.stderr.splitlines()[-2:]
    number = NET.splitlines().index("        if x.sum() > 0:") + 1
    assert place.startswith("It stopped in ")
    assert place.endswith(f"net.py, line {number}, in forward:")
    assert code == "    if x.sum() > 0:"
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net.py:Net"], 2, "--inputs 3,32,32 or --data data.py:loaders"),
        (["net.py:Net", "--inputs", "4", "--data", "net.py:loaders"], 2, "in one of two ways"),
        (["net.py:Net", "--inputs", "4x4"], 2, "not '4x4'"),
        (["net.py:Nett", "--inputs", "4"], 2, "did you mean 'Net'"),
        (["nets.py:Net", "--inputs", "4"], 2, "there is no file nets.py"),
        (["Net", "--inputs", "4"], 2, "expected FILE.py:NAME"),
        (["net.py:sized", "--inputs", "4"], 1, "function without arguments"),
        (["net.py:loaders", "--inputs", "4"], 2, "must give a torch.nn.Module; it gave dict"),
        (["net.py:Net", "--data", "net.py:raising"], 1, 'raise RuntimeError("my own mistake")'),
        (["net.py:raising", "--inputs", "4"], 1, 'raise RuntimeError("my own mistake")'),
        (["net.py:Net", "--inputs", "4", "--entry", "ema"], 2, "name the file with --weights"),
        (["net.py:Net", "--inputs", "4", "--weights", "no.pth"], 1, "there is no file no.pth"),
        (["net.py:Net", "--inputs", "4", "--weights", "names.pth"], 1, "does not fit Net"),
        (["net.py:Net", "--inputs", "4", "--weights", "nan.pth"], 1, "'0.bias' of nan.pth has 6"),
        (["net.py:Net", "--inputs", "4", "--save", "o.pt"], 2, "call it o.safetensors"),
        (["net.py:Net", "--inputs", "4", "--save", "no/o.safetensors"], 2, "there is no folder no"),
        (["net.py:Net", "--inputs", "4", "--batch", "1"], 2, "batch"),
        (["net.py:Net", "--inputs", "4", "--seed", "-1"], 2, "seed"),
    ],
)
def test_what_cannot_be_used(run, project, give, arguments, code, message):
    state = network().state_dict()
    torch.save({**state, "0.bias": torch.full((6,), float("nan"))}, "nan.pth")
    torch.save({name: tensor for name, tensor in state.items() if name != "0.bias"}, "names.pth")
    calls = give(found(MANY))
    result = run("symmetries", *arguments, code=code)
    assert message in result.stderr
    assert "src/conjoin" not in result.stderr
    assert calls == []  # before any work is done


def test_help_teaches_and_does_not_wait_for_torch(run):
    text = " ".join(run("symmetries", "--help").stdout.split())
    assert text.count("conjoin symmetries") >= 3  # the usage, and examples
    assert "Writes nothing without --save" in text
    code = (
        "import sys\n"
        "from conjoin.cli import main\n"
        "try:\n"
        "    main(['symmetries', '--help'])\n"
        "finally:\n"
        "    sys.exit('torch' in sys.modules)\n"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0
