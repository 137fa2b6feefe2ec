"""A checkpoint seen in another order."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

import conjoin
from conjoin.checkpoints import Checkpoint, Spec, as_checkpoint, open_checkpoint, save
from conjoin.errors import MismatchError
from conjoin.symmetry import find_symmetries


class Tied(nn.Module):
    """A tied head, a norm with statistics, a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.middle = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("shift", torch.rand(1), persistent=False)

    def forward(self, x):
        y = self.words(x) + self.shift
        return self.head(self.norm(y + self.middle(y)))


class Counting(Checkpoint):
    """Says which tensors were asked for."""

    def __init__(self, of: Checkpoint) -> None:
        self.of, self.asked = of, []

    @property
    def specs(self) -> Mapping[str, Spec]:
        return self.of.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"made by": "a test"}

    def __getitem__(self, name):
        self.asked.append(name)
        return self.of[name]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = Tied().eval()
    made.norm.running_mean.copy_(torch.rand(6))
    return made


@pytest.fixture(scope="module")
def order(net):
    found = find_symmetries(net, torch.randint(0, 7, (5,)))
    return found.sample(torch.Generator().manual_seed(0))


def test_each_tensor_is_what_a_mapping_gets(net, order, tmp_path):
    path = tmp_path / "net.safetensors"
    save(net, path)
    seen = order.apply(open_checkpoint(path))
    expected = order.apply(net.state_dict())
    assert dict(seen.specs) == dict(open_checkpoint(path).specs)
    assert set(seen) == set(expected)
    for name in seen:
        assert torch.equal(seen[name], expected[name])
        flat = expected[name].reshape(-1)
        assert torch.equal(seen.read(name, flat.numel() // 3), flat[flat.numel() // 3 :])
    assert not torch.equal(seen["words.weight"], net.words.weight)
    # It is a checkpoint as any other: saved, and the way back.
    save(seen, tmp_path / "other.safetensors")
    back = order.inverse().apply(open_checkpoint(tmp_path / "other.safetensors"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(back[name], tensor)
    merged = conjoin.merge([back, open_checkpoint(path)])
    torch.testing.assert_close(merged["middle.0.weight"], net.middle[0].weight.detach())


def test_nothing_is_read_before_it_is_asked_for(net, order):
    whole = Counting(as_checkpoint(net))
    seen = order.apply(whole)
    assert whole.asked == []
    assert "reordered" in repr(seen)
    assert seen.metadata == {"made by": "a test"}
    seen["middle.0.bias"]
    assert whole.asked == ["middle.0.bias"]
    with pytest.raises(KeyError, match="'middle.0.bias'"):
        seen["middle.0.bia"]


def test_a_file_holds_a_tied_tensor_under_any_of_its_names(net, order):
    state = net.state_dict()
    expected = order.apply(state)
    for name in ("words.weight", "head.weight"):
        rest = {n: t for n, t in state.items() if n != name}
        found = order.apply(as_checkpoint(rest))
        assert set(found) == set(rest)
        assert all(torch.equal(found[n], expected[n]) for n in rest)
    neither = {n: t for n, t in state.items() if n not in ("words.weight", "head.weight")}
    with pytest.raises(MismatchError, match=r"no tensor 'words.weight' among the \d+ given"):
        order.apply(as_checkpoint(neither))


def test_another_shape_is_refused_before_anything_is_read(net, order):
    changed = Counting(as_checkpoint({**net.state_dict(), "middle.0.bias": torch.zeros(8)}))
    with pytest.raises(MismatchError, match=r"'middle.0.bias' has the shape \[8\].*\[9\]"):
        order.apply(changed)
    assert changed.asked == []
