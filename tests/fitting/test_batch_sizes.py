"""A forward with ``len(x)`` is fitted to all rows, like one without."""

import pytest
import torch
from torch import nn

from conjoin.errors import TraceError
from conjoin.fitting import merge_with_data


class Sequences(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.body(x).relu()
        if self.how == "loop":
            return torch.stack([self.head(one[-1]) for one in h])
        return self.head(h[torch.arange(len(x)), -1] if self.how == "index" else h[:, -1])


def _networks(how):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(Sequences(how).eval())
    return found


def _data():
    return [
        list(torch.randn(70, 4, 5, generator=torch.Generator().manual_seed(n)).split(30))
        for n in (0, 1)
    ]


@pytest.mark.parametrize("method", ["least_squares", "regmean"])
def test_the_result_is_the_same(method):
    one, two = (merge_with_data(_networks(how), _data(), method)[0] for how in ("plain", "index"))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, msg=name)


def test_a_loop_over_the_examples_is_an_error():
    with pytest.raises(TraceError, match="go through the examples one by one"):
        merge_with_data(_networks("loop"), _data(), align=None)
