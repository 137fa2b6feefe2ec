"""What the methods share that merge changes as matrices."""

import pytest
import torch

from conjoin.errors import MethodError
from conjoin.methods.matrices import Changes, merge_matrices


def _merge(tensors, base, *, merge=Changes.total, weights=None, flatten=False, scale=1.0):
    weights = [1.0] * len(tensors) if weights is None else weights
    return merge_matrices(
        merge, tensors, base=base, weights=weights, flatten=flatten, scale=scale, method="it"
    )


def test_changes_are_weighted_differences_in_float64_made_anew():
    base, a, b = torch.tensor([[1.0, 2]]), torch.tensor([[4.0, 2]]), torch.tensor([[1.0, 0]])
    changes = Changes([a, b], base, [1.0, -2.0])
    assert changes.of(0).dtype == torch.float64
    assert changes.of(0).tolist() == [[3, 0]]
    assert changes.of(1).tolist() == [[0, 4]]
    changes.of(1).fill_(7)
    changes.total().fill_(7)
    assert changes.total().tolist() == [[3, 4]]
    assert (len(changes), changes.rank) == (2, 1)
    # Exact, where float32 would round the difference.
    tiny = Changes([torch.tensor([[1.0]])], torch.tensor([[2.0**-40]]), [1.0])
    assert tiny.of(0).item() == 1 - 2.0**-40


def test_the_function_gets_matrices_alone():
    seen = []

    def merge(changes):
        seen.append(changes.base.shape)
        return torch.ones(changes.base.shape, dtype=torch.float64)

    shapes = [(), (3,), (2, 3), (2, 3, 4), (0, 3), (2, 0, 3)]
    for flatten in (False, True):
        for shape in shapes:
            base = torch.full(shape, 2.0)
            found = _merge([base, base], base, merge=merge, flatten=flatten, scale=0.5)
            expected = (
                2.5 if base.numel() and (base.dim() == 2 or (base.dim() > 2 and flatten)) else 2
            )
            assert torch.equal(found, torch.full(shape, expected))
    assert seen == [(2, 3), (2, 3), (2, 12)]


def test_other_tensors_by_hand():
    base, a, b = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([5.0])
    # 1 + 2 (1 * 1 + 3 * 4) / 2
    assert _merge([a, b], base, weights=[1, 3], scale=2.0).tolist() == [14]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_one_bad_number_makes_a_matrix_nan(bad, where):
    everything = list(torch.ones(3, 2, 2))
    everything[where][1, 0] = bad
    assert _merge(everything[:2], everything[2]).isnan().all()


def test_meta_tensors_and_dtypes():
    base = torch.empty(2, 3, device="meta")
    assert _merge([base], base).is_meta
    for dtype in (torch.float32, torch.float64, torch.complex64):
        base = torch.ones(2, 3, dtype=dtype)
        found = _merge([base * 3], base)
        assert (found.dtype, found.tolist()) == (dtype, (base * 3).tolist())


def test_weights_that_do_not_fit():
    base = torch.zeros(2, 2)
    with pytest.raises(MethodError, match="it needs one weight per model: 1, not 2"):
        _merge([base], base, weights=[1, 2])
    with pytest.raises(MethodError, match="finite"):
        _merge([base], base, weights=[torch.inf])
