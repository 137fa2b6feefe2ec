"""ExPO by hand, and beside task arithmetic."""

import pytest
import torch
from method_engine import run

from conjoin.errors import MethodError


def test_by_hand():
    base, model = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert run("expo", [model], base, alpha=0.5).tolist() == [2.5, -1]
    assert run("expo", [model], base, alpha=-1).tolist() == base.tolist()
    assert torch.equal(run("expo", [model], base, alpha=0), model)


def test_it_is_task_arithmetic_of_more_than_one():
    base, model = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    found = run("expo", [model], base, alpha=0.3)
    torch.testing.assert_close(found, run("task_arithmetic", [model], base, scale=1.3))


def test_it_takes_one_model():
    with pytest.raises(MethodError, match="exactly 1 model, and here are 2"):
        run("expo", [torch.ones(1)] * 2, torch.ones(1))
