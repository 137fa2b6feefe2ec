"""Statistics against NumPy in float64, however data are cut; going on after a kill; bad input."""

from functools import cache

import numpy as np
import pytest
import torch
from statistics_networks import images, randomized, vgg
from torch import nn
from torch.nn import functional as F

import conjoin.data_statistics.fisher_sums as fisher_sums
from conjoin.checkpoints import open_checkpoint
from conjoin.data_statistics import Program, collect_statistics
from conjoin.errors import DataError, InputError, NonFiniteError, OutputExistsError, StageError
from conjoin.symmetry.tracing import trace


def _small(seed=0):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    return randomized(net, seed)


@cache
def _program():
    return Program(trace(_small(), torch.zeros(2, 3)))


def _collect(net, data, **settings):
    """Statistics of a small network, which need not be traced again each time."""
    return collect_statistics(net, data, program=_program(), **settings)


def _rows(count, mean=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(count, 3, generator=generator)


def _same(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


@torch.no_grad()
def test_a_linear_layer_against_numpy():
    net, x = _small(), _rows(50, 2.0)
    found = _collect(net, [x[:20], x[20:]])
    rows, hidden = x.double().numpy(), net[:2](x).double().numpy()
    for name, seen in (("0", rows), ("2", hidden)):
        assert found[f"{name}:count"] == 50
        np.testing.assert_allclose(found[f"{name}:input_mean"], seen.mean(0)[None], rtol=1e-6)
        np.testing.assert_allclose(found[f"{name}:gram"], (seen.T @ seen)[None] / 50, rtol=1e-5)
    outputs = net[0](x).double().numpy()
    np.testing.assert_allclose(found["0:output_mean"], outputs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["0:output_variance"], outputs.var(0), rtol=1e-5)
    assert {tensor.dtype for tensor in found.values()} == {torch.float64, torch.int64}


@torch.no_grad()
def test_a_convolution_by_unfolding_it():
    net, x = randomized(vgg()), images(6)
    found = collect_statistics(net, [x], layers=["0", "4"])
    assert {name.partition(":")[0] for name in found} == {"0", "4"}
    rows = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    torch.testing.assert_close(found["0:gram"][0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)
    assert found["0:count"] == len(rows) == 6 * 64
    normal = net[:2](x).double()
    torch.testing.assert_close(
        found["0:normalized_variance"],
        normal.transpose(0, 1).flatten(1).var(1, correction=0),
        rtol=1e-5,
        atol=1e-6,
    )
    assert "0:normalized_mean" in found


@torch.no_grad()
def test_groups_have_matrices_of_their_own():
    net = nn.Sequential(nn.Conv1d(4, 6, 2, groups=2))
    x = torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(0))
    found = collect_statistics(net, [x])
    halves = [collect_statistics(nn.Sequential(nn.Conv1d(2, 3, 2)), [p]) for p in x.split(2, 1)]
    assert found["0:gram"].shape == (2, 4, 4)
    torch.testing.assert_close(found["0:gram"], torch.cat([half["0:gram"] for half in halves]))


def test_it_does_not_matter_how_data_are_cut():
    net, x = _small(), _rows(40, 1e4)
    together = _collect(net, [x])
    for parts in (x.split(1), x.split([7, 30, 3])):
        found = _collect(net, list(parts))
        for name in ("0:count", "0:input_mean", "0:gram"):
            torch.testing.assert_close(found[name], together[name], rtol=1e-12, atol=1e-5)
        # What the model gives is float32 of the size 1e4, rounded otherwise in other batches.
        _same(found, together, rtol=1e-5, atol=2e-3)
    covariance = together["0:gram"][0] - together["0:input_mean"].T @ together["0:input_mean"]
    expected = np.cov(x.double().numpy().T, bias=True)
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-5)


def test_what_is_asked_for_is_what_is_given():
    net, data = _small(), [_rows(4)]
    assert list(_collect(net, data, what=("gram",), layers="2")) == ["2:count", "2:gram"]
    kinds = {n.partition(":")[2] for n in _collect(net, data, what=("moments",))}
    assert kinds == {"count", "input_mean", "output_mean", "output_variance"}
    names = [f"{name}:fisher" for name, _ in net.named_parameters()]
    assert list(_collect(net, data, what=("fisher",))) == names


def test_the_model_stays_as_it_was():
    net = vgg().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    collect_statistics(net, [images(4)], what=("moments", "fisher"))
    assert all(part.training for part in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["attention", "llama", "gpt2"])
def test_transformers_and_layers_that_read_the_same(name, traced):
    net, program, batch = traced(name)
    data = [(batch(3), torch.zeros(3))]
    found = collect_statistics(net, data, what=("moments", "gram"), program=program)
    assert all(bool(tensor.isfinite().all()) for tensor in found.values())
    if name == "llama":
        parts = [f"model.layers.0.self_attn.{letter}_proj:gram" for letter in "qkv"]
        assert len({found[part].data_ptr() for part in parts}) == 1


def test_half_precision_is_computed_in_float32():
    net, x = _small().bfloat16(), _rows(30).bfloat16()
    expected = _collect(_small().bfloat16().float(), [x.float()], what=("gram", "fisher"))
    _same(_collect(net, [x], what=("gram", "fisher")), expected)
    assert net[0].weight.dtype == torch.bfloat16


def _fisher_by_hand(net, x, labels):
    total = [torch.zeros_like(p) for p in net.parameters()]
    for row, label in zip(x, labels, strict=True):
        loss = F.cross_entropy(net(row[None]), label[None])
        for sum_, gradient in zip(
            total, torch.autograd.grad(loss, list(net.parameters())), strict=True
        ):
            sum_ += gradient.square() / len(x)
    return total


@pytest.mark.parametrize("elements", [1, 1 << 26])
def test_empirical_fisher_against_one_gradient_after_the_other(elements, monkeypatch):
    monkeypatch.setattr(fisher_sums, "ELEMENTS", elements)
    net, x = _small(), _rows(9)
    labels = torch.arange(9) % 3
    found = _collect(net, (x, labels), what=("fisher",), labels="given", batch_size=4)
    for one, expected in zip(found.values(), _fisher_by_hand(net, x, labels), strict=True):
        torch.testing.assert_close(one, expected.double(), rtol=1e-4, atol=1e-9)


def test_fisher_of_a_linear_model_in_closed_form():
    # p = softmax(x w): F_cf = mean_n p_c (1 - p_c) x_f^2, the expectation over drawn labels.
    net = nn.Sequential(nn.Linear(3, 3, bias=False))
    x = _rows(6).repeat(1500, 1)
    found = _collect(net, [x], what=("fisher",))["0.weight:fisher"]
    p = net(x).softmax(1).double().detach()
    expected = (p * (1 - p)).T @ x.double().square() / len(x)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.01)
    # And not the empirical one, with the likeliest label, say:
    likely = _collect(net, (x, p.argmax(1)), what=("fisher",), labels="given")
    assert (likely["0.weight:fisher"] - expected).abs().max() > 0.05


def test_drawn_labels_depend_on_seed_and_example_only():
    net, x = _small(), _rows(20)
    together = _collect(net, [x], what=("fisher",), seed=3)
    _same(_collect(net, list(x.split(1)), what=("fisher",), seed=3), together)
    other = _collect(net, [x], what=("fisher",), seed=4)
    assert not torch.allclose(other["0.weight:fisher"], together["0.weight:fisher"], rtol=1e-3)


class Counting(nn.Module):
    """Whose value decides what is computed: vmap cannot."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 3)

    def forward(self, x):
        x = self.body(x)
        return x if float(x.sum()) > 1e9 else x.tanh()


def test_fisher_without_vmap_and_without_a_trace():
    net, x, lines = randomized(Counting()), _rows(5), []
    found = _collect(net, [x], what=("fisher",), notice=lines.append)
    plain = nn.Sequential(net.body, nn.Tanh())
    expected = collect_statistics(plain, [x], what=("fisher",))
    torch.testing.assert_close(found["body.weight:fisher"], expected["0.weight:fisher"])
    assert len(lines) == 1
    assert "one example at a time" in lines[0]


def test_fisher_of_places():
    found = collect_statistics(
        nn.Sequential(nn.Linear(3, 4)), [torch.rand(6, 5, 3)], what=("fisher",)
    )
    assert found["0.weight:fisher"].shape == (4, 3)


class KilledError(Exception):
    pass


def _killed_after(batches, count):
    for number, batch in enumerate(batches):
        if number == count:
            raise KilledError
        yield batch


ALL = ("moments", "gram", "fisher")


def test_going_on_after_a_kill(tmp_path):
    net, file = _small(), tmp_path / "seen.safetensors"
    data = list(_rows(21, 5.0).split(3))
    with pytest.raises(KilledError):
        _collect(net, _killed_after(data, 5), what=ALL, file=file, every=2)
    assert [path.name for path in tmp_path.iterdir()] == ["seen.partial.safetensors"]
    done = []
    found = _collect(net, data, what=ALL, file=file, every=2, on_batch=done.append)
    whole = _collect(net, data, what=ALL)
    _same(found, whole, rtol=0, atol=0)
    assert done == [3] * 7
    assert [path.name for path in tmp_path.iterdir()] == ["seen.safetensors"]
    stored = open_checkpoint(file)
    _same(dict(stored), whole, rtol=0, atol=0)
    assert stored.metadata["conjoin.fisher"] == "vmap"


def test_what_was_done_is_not_computed_again(tmp_path, monkeypatch):
    net, file, data = _small(), tmp_path / "seen.safetensors", list(_rows(12).split(3))
    with pytest.raises(KilledError):
        _collect(net, _killed_after(data, 3), what=("fisher",), file=file, every=1)
    runs = []
    monkeypatch.setattr(
        fisher_sums.FisherSums, "add", lambda self, inputs, labels: runs.append(len(inputs))
    )
    _collect(net, data, what=("fisher",), file=file, every=1)
    assert runs == [3]


def _begun(tmp_path):
    file, data = tmp_path / "seen.safetensors", list(_rows(12).split(3))
    with pytest.raises(KilledError):
        _collect(_small(), _killed_after(data, 3), file=file, every=2)
    return file, data


def test_other_batches_are_refused(tmp_path):
    file, data = _begun(tmp_path)
    with pytest.raises(DataError, match="the first 2 batches are not those that .*partial"):
        _collect(_small(), data[::-1], file=file)
    with pytest.raises(DataError, match="the data gave 1 batches, and .* was made of 2"):
        _collect(_small(), data[:1], file=file)


def test_another_model_or_other_settings_are_refused(tmp_path):
    file, data = _begun(tmp_path)
    with pytest.raises(StageError, match="another model or other settings; delete it"):
        collect_statistics(_small(1), data, file=file)
    with pytest.raises(StageError, match="another model or other settings; delete it"):
        _collect(_small(), data, file=file, what=("gram",))


def test_a_file_is_not_replaced_unasked(tmp_path):
    file = tmp_path / "seen.safetensors"
    _collect(_small(), [_rows(3)], file=file)
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        _collect(_small(), [_rows(4)], file=file)
    _collect(_small(), [_rows(4)], file=file, overwrite=True)
    assert open_checkpoint(file)["0:count"] == 4


def test_tensors_that_layers_share_are_stored_once(tmp_path, traced):
    net, program, batch = traced("llama")
    file = tmp_path / "seen.safetensors"
    found = collect_statistics(net, [(batch(3), torch.zeros(3))], file=file, program=program)
    _same({n: open_checkpoint(file)[n] for n in found}, found, rtol=0, atol=0)


def test_numbers_that_are_not_finite():
    x = _rows(6)
    x[4, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="the layer '0' reads or gives has NaN"):
        _collect(_small(), [x])
    net = _small()
    with torch.no_grad():
        net[2].weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="the layer '2' reads or gives has NaN"):
        _collect(net, [_rows(6)])
    with pytest.raises(NonFiniteError, match="the outputs of Sequential have NaN"):
        _collect(net, [_rows(6)], what=("fisher",))


def test_no_data():
    for empty in ([], [torch.zeros(0, 3)], (torch.zeros(0, 3), torch.zeros(0))):
        with pytest.raises(DataError, match="the data gave no examples"):
            _collect(_small(), empty)


def test_labels_that_do_not_fit():
    fisher = {"what": ("fisher",), "labels": "given"}
    with pytest.raises(DataError, match="must give pairs"):
        _collect(_small(), [_rows(2)], **fisher)
    with pytest.raises(DataError, match="reach from 0 to 3, but the model has 3 outputs"):
        _collect(_small(), [(_rows(2), torch.tensor([0, 3]))], **fisher)
    with pytest.raises(DataError, match=r"int64 labels \[2\]"):
        _collect(_small(), [(_rows(2), torch.zeros(2))], **fisher)
    with pytest.raises(DataError, match=r"needs outputs \[B, classes\]"):
        collect_statistics(nn.Sequential(nn.Conv2d(3, 4, 1)), [images(2)], what=("fisher",))


def test_a_matrix_that_is_too_large_names_its_layer():
    message = r"2 layers take .*largest is that of '2': 4 features.*memory=bytes.*layers=patterns"
    with pytest.raises(InputError, match=message):
        _collect(_small(), [_rows(2)], memory=199)
    assert "2:gram" in _collect(_small(), [_rows(2)], memory=200)  # 8 (9 + 16)
    assert _collect(_small(), [_rows(2)], memory=0, what=("moments",))


def test_batches_of_another_shape():
    with pytest.raises(InputError, match="traced with the shape"):
        _collect(_small(), [_rows(2)[:, None], _rows(2)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"what": ("grams",)}, "must be some of"),
        ({"what": "gram"}, "must be some of"),
        ({"what": ()}, "must be some of"),
        ({"labels": "own"}, "'drawn' or 'given'"),
        ({"every": 0}, "from 1 on"),
        ({"layers": "head"}, "matches none"),
        ({"file": "seen.pt"}, "safetensors file"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        _collect(_small(), [_rows(2)], **settings)


def test_a_model_without_layers():
    with pytest.raises(InputError, match="the model has no layer"):
        collect_statistics(nn.Sequential(nn.ReLU()), [_rows(2)])


def test_a_batch_of_one_and_an_example():
    x = _rows(3)
    expected = _collect(_small(), [x])
    _same(collect_statistics(_small(), iter(x.split(1))), expected)
    _same(collect_statistics(_small(), [x], example_inputs=torch.zeros(2, 3)), expected)


def test_a_matrix_for_each_channel_of_a_depthwise_convolution(traced):
    net, program, batch = traced("depthwise")
    found = collect_statistics(net, [batch(4)], what=("moments", "gram"), program=program)
    assert found["0.conv.0.0:gram"].shape == (1, 3, 3)
    assert found["0.conv.1.0:gram"].shape == (6, 9, 9)
