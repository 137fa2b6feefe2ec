"""Reordering by matrices, against hard reordering, NumPy and finite differences."""

import numpy as np
import pytest
import torch
from alignment_networks import NETWORKS, new

from conjoin.alignment.soft import matrix_of, mixed, sinkhorn, straight_through
from conjoin.symmetry import Group, Layout, Part, find_symmetries


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("make", "example"), NETWORKS.values(), ids=NETWORKS)
def test_a_permutation_matrix_reorders_with_the_same_bits(make, example):
    net = new(make, 0)
    symmetries = find_symmetries(net, example)
    planted = symmetries.sample(torch.Generator().manual_seed(0))
    matrices = {name: matrix_of(order) for name, order in planted.orders.items()}
    moved = [n for n, t in net.state_dict().items() if planted.moves(n) and t.is_floating_point()]
    assert moved
    for name in moved:
        tensor = net.state_dict()[name]
        found = mixed(name, tensor, symmetries.layout, matrices)
        assert torch.equal(found, planted.tensor(name, tensor)), name


OUTER, INNER = Part("atom", "heads", 2), Part("atom", "units", 3)
HEADS = Layout(
    {
        "heads": Group("heads", 2, (), (), (("w", 0),)),
        "units": Group("units", 3, ("heads",), (2,), (("w", 0),)),
        "stream": Group("stream", 4, (), (), (("w", 1), ("square", 0), ("square", 1))),
    },
    {
        "w": (Part("product", parts=(OUTER, INNER)), Part("atom", "stream", 4)),
        "square": (Part("atom", "stream", 4), Part("atom", "stream", 4)),
        "joined": (Part("sum", parts=(Part("atom", "stream", 4), Part("atom", None, 2))),),
    },
    {},
)


def test_by_hand():
    """Heads are mixed first; then units, by the matrix of the head in the result."""
    heads, units, stream = drawn(2, 2), drawn(2, 3, 3, seed=1), drawn(4, 4, seed=2)
    matrices = {"heads": heads, "units": units, "stream": stream}
    w, square, joined = drawn(6, 4, seed=3), drawn(4, 4, seed=4), drawn(6, seed=5)
    expected = np.einsum(
        "oij,op,pjc,dc->oid", units.numpy(), heads.numpy(), w.reshape(2, 3, 4).numpy(), stream
    )
    found = mixed("w", w, HEADS, matrices)
    np.testing.assert_allclose(found, expected.reshape(6, 4), atol=1e-12)
    torch.testing.assert_close(mixed("square", square, HEADS, matrices), stream @ square @ stream.T)
    both = torch.cat([stream @ joined[:4], joined[4:]])
    torch.testing.assert_close(mixed("joined", joined, HEADS, matrices), both)


def test_the_gradient_of_soft_reordering():
    tensors = {"w": drawn(6, 4, seed=3), "square": drawn(4, 4, seed=4), "joined": drawn(6, seed=5)}
    shadows = [drawn(2, 2), drawn(2, 3, 3, seed=1), drawn(4, 4, seed=2)]

    def outputs(heads, units, stream):
        matrices = {"heads": heads, "units": units, "stream": stream}
        return tuple(mixed(n, t, HEADS, matrices).square().sum() for n, t in tensors.items())

    assert torch.autograd.gradcheck(outputs, [shadow.requires_grad_() for shadow in shadows])


def test_sinkhorn_scales_rows_and_columns():
    shadow = 2 * drawn(3, 5, 5)
    found = sinkhorn(shadow)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 5).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.sum(-2), torch.ones(3, 5).double(), atol=1e-3, rtol=0)
    # What is left beside factors of rows and columns: second differences of logarithms.
    rest = found.log() - shadow
    cross = rest[:, :1, :1] + rest - rest[:, :1] - rest[:, :, :1]
    torch.testing.assert_close(cross, torch.zeros_like(cross), atol=1e-9, rtol=0)
    with torch.no_grad():
        order = torch.tensor([2, 0, 3, 4, 1])
        torch.testing.assert_close(sinkhorn(40 * matrix_of(order)), matrix_of(order))


def test_the_gradient_of_sinkhorn_is_that_of_its_limit():
    """Against finite differences of an iteration that goes on until nothing changes."""

    def limit(shadow):
        logs = shadow
        for _ in range(500):
            logs = logs - logs.logsumexp(-2, keepdim=True)
            logs = logs - logs.logsumexp(-1, keepdim=True)
        return logs.exp()

    shadow, weights = drawn(2, 4, 4), drawn(2, 4, 4, seed=1)
    found = shadow.clone().requires_grad_()
    (sinkhorn(found) * weights).sum().backward()
    expected = torch.empty_like(shadow)
    for at in np.ndindex(*shadow.shape):
        step = torch.zeros_like(shadow)
        step[at] = 1e-5
        change = (limit(shadow + step) - limit(shadow - step)) * weights
        expected[at] = change.sum() / 2e-5
    torch.testing.assert_close(found.grad, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_sinkhorn_stays_finite_where_it_is_a_permutation(dtype):
    shadow = (50 * drawn(6, 6)).to(dtype).requires_grad_()
    (sinkhorn(shadow) * drawn(6, 6, seed=1).to(dtype)).sum().backward()
    assert bool(shadow.grad.isfinite().all())
    assert float(shadow.grad.abs().max()) < 0.1


def test_straight_through_is_a_permutation_with_the_gradient_of_the_shadow():
    shadow = torch.tensor([[[0.2, 0.9], [0.1, 0.3]], [[0.2, 0.9], [-5.0, 0.3]]], requires_grad=True)
    found = straight_through(shadow)
    assert found.tolist() == [[[0, 1], [1, 0]], [[1, 0], [0, 1]]]
    weights = torch.arange(8.0).reshape(2, 2, 2)
    (found * weights).sum().backward()
    assert torch.equal(shadow.grad, weights)
