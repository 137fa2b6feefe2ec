"""Models as networks: their names, what does not fit, and what a hash depends on."""

import functools
import sys

import pytest
import torch
from torch import nn

import conjoin
from conjoin.comparison.networks import digest_of, fresh, names_of, network_of
from conjoin.comparison.user_code import find_callable
from conjoin.errors import (
    CheckpointError,
    InputError,
    MismatchError,
    NonFiniteError,
    UserCodeError,
)

CPU = torch.device("cpu")


def made(name, model, source=None, entry=None):
    return network_of(name, model, source, entry=entry, device=CPU)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["a.pth", "x/b.pth"], ["a", "b"]),
        (["x/best.pth", "y/best.pth"], ["x/best", "y/best"]),
        (["x/1/best.pth", "y/1/best.pth"], ["x/1/best", "y/1/best"]),
        (["best.pth", "y/best.pth"], ["best", "y/best"]),
        (["a.pt", "a.pth"], ["a.pt", "a.pth"]),
        (["/x/a.pt", "/y/a.pt"], ["x/a", "y/a"]),
        ({1: "a.pth", "two": "b.pth"}, ["1", "two"]),
        (["bad\udcff.pth", "b.pth"], ["bad\\udcff", "b"]),
        ([nn.Identity()] * 28, [*"abcdefghijklmnopqrstuvwxyz", "model 27", "model 28"]),
    ],
)
def test_names(models, names):
    assert list(names_of(models)) == names


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "no model"),
        (["a.pth", "a.pth"], "two models are called 'a.pth'"),
        ({1: "a.pth", "1": "b.pth"}, "two models are called '1'"),
        ({"": "a.pth"}, "empty name"),
        ([{"weight": torch.zeros(1)}], "a module|torch.nn.Module or a file.*not dict"),
    ],
)
def test_names_that_cannot_be(models, message):
    with pytest.raises(InputError, match=message):
        names_of(models)


def test_a_module_is_copied(tiny):
    net = tiny.network(0).train()
    loaded = made("a", net).load()
    assert not loaded.training
    assert net.training
    with torch.no_grad():
        loaded[0].weight.zero_()
    assert net[0].weight.abs().sum() > 0


def test_a_file_is_loaded(tiny, tmp_path):
    net = tiny.network(0)
    path = conjoin.save(net, tmp_path / "a.safetensors")
    loaded = made("a", path, lambda: tiny.network(3)).load()
    x = torch.randn(5, 4)
    assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize("prefix", ["model.", "net.backbone."])
def test_a_prefix_that_all_names_have_is_taken_off(tiny, tmp_path, prefix):
    net = tiny.network(0)
    named = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    saved = {"pytorch-lightning_version": "2", "state_dict": named, "epoch": 3}
    torch.save(saved, tmp_path / "last.ckpt")
    loaded = made("a", tmp_path / "last.ckpt", lambda: tiny.network(3)).load()
    x = torch.randn(5, 4)
    assert torch.equal(loaded(x), net(x))
    torch.save({"state_dict": named | {"loss.weight": torch.ones(1)}}, tmp_path / "last.ckpt")
    with pytest.raises(MismatchError, match=r"loss\.weight"):
        made("a", tmp_path / "last.ckpt", lambda: tiny.network(3))


def test_an_entry_of_a_file(tiny, tmp_path):
    nets = {"one": tiny.network(0), "two": tiny.network(1)}
    path = tmp_path / "a.pth"
    torch.save({key: net.state_dict() for key, net in nets.items()}, path)
    source = functools.partial(tiny.network, 5)
    with pytest.raises(CheckpointError, match="entry="):
        made("a", path, source)
    stages = set()
    for entry, net in nets.items():
        found = made("a", path, source, entry)
        assert torch.equal(found.load()[0].weight, net[0].weight)
        stages.add(found.stage.key)
    assert len(stages) == 2


def test_what_does_not_fit(tiny, tmp_path):
    path = conjoin.save(tiny.network(0), tmp_path / "a.pth")
    with pytest.raises(InputError, match="a.pth, its class is needed"):
        made("a", path)
    with pytest.raises(MismatchError, match=r"(?s)missing in the file.*0\.extra|0\.extra"):
        made("a", path, lambda: _with(tiny.network(0), "extra"))
    with pytest.raises(MismatchError, match=r"(?s)extra.*1\.running_mean"):
        made("a", path, lambda: tiny.network(0, norm=False))
    with pytest.raises(MismatchError, match=r"'0.weight'.*\[8, 4\] in the file, \[9, 4\]"):
        made("a", path, lambda: tiny.network(0, width=9))


def _with(net, name):
    net[0].register_buffer(name, torch.zeros(1))
    return net


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("as_file", [True, False])
def test_nonfinite_tensors(tiny, tmp_path, value, as_file):
    net = tiny.network(0)
    with torch.no_grad():
        net[3].bias[1] = value
    model = conjoin.save(net, tmp_path / "a.pth") if as_file else net
    with pytest.raises(NonFiniteError, match="'3.bias' of mine has.*mend or leave out"):
        made("mine", model, lambda: tiny.network(1))


def needs(width):
    return nn.Linear(width, 1)


def test_what_makes_no_network():
    with pytest.raises(UserCodeError, match="missing 1 required positional argument") as caught:
        fresh(needs)
    assert "function without arguments" in "".join(caught.value.__notes__)
    with pytest.raises(InputError, match="must give a torch.nn.Module; it gave int"):
        fresh(lambda: 3)


def test_new_networks_are_seeded_and_nothing_else_is():
    before = torch.get_rng_state()
    one, again, other = (fresh(lambda: nn.Linear(3, 3), seed) for seed in (1, 1, 2))
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    assert torch.equal(torch.get_rng_state(), before)


class Scaled(nn.Module):
    def __init__(self, scale=1.0, activation=torch.relu):
        super().__init__()
        self.scale, self.activation = scale, activation
        self.net = nn.Linear(2, 2)
        with torch.no_grad():
            self.net.weight.fill_(1), self.net.bias.fill_(0)
        self.register_buffer("mask", torch.ones(2), persistent=False)


def _masked():
    net = Scaled()
    net.mask[0] = 0
    return net


def _linear(*activation):
    net = nn.Sequential(nn.Linear(2, 2), *activation)
    nn.init.ones_(net[0].weight), nn.init.zeros_(net[0].bias)
    return net


def test_the_stage_knows_what_is_no_tensor():
    makers = [
        Scaled,
        lambda: Scaled(2.0),
        lambda: Scaled(activation=torch.tanh),
        lambda: Scaled(activation=lambda x: x + 1),
        lambda: Scaled(activation=lambda x: x * 2),
        _masked,
        lambda: _linear(nn.ReLU()),
        lambda: _linear(nn.Tanh()),
        lambda: _linear(nn.LeakyReLU(0.1)),
        lambda: _linear(nn.LeakyReLU(0.2)),
    ]
    keys = [made("a", maker()).stage.key for maker in makers]
    assert len(set(keys)) == len(keys)
    assert keys == [made("b", maker()).stage.key for maker in makers]


def test_the_stage_knows_the_source(tiny, tmp_path, monkeypatch):
    path = conjoin.save(nn.Linear(2, 2), tmp_path / "a.pth")
    file = tmp_path / "net_of_stage.py"
    file.write_text("from torch import nn\ndef make():\n    return nn.Linear(2, 2)\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    make = find_callable(f"{file}:make")
    try:
        before = made("a", path, make).stage.key
        assert made("a", path, make).stage.key == before
        file.write_text(file.read_text() + "# changed\n")
        assert made("a", path, make).stage.key != before
    finally:
        del sys.modules["net_of_stage"]


def test_the_hash_of_tensors():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert digest_of(one) != digest_of(other)
    other.load_state_dict(one.state_dict())
    assert digest_of(one) == digest_of(other)
    assert digest_of(one) != digest_of(other.double())
