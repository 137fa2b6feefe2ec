"""Weights that a module computes from parts are not merged part by part."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from conjoin import merge
from conjoin.checkpoints import save
from conjoin.errors import InputError


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


WAYS = {
    "parametrized weight norm": parametrizations.weight_norm,
    "parametrized spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral norm": spectral_norm,
    "pruned": pruned,
}


def states(way):
    return [nn.Sequential(way(nn.Linear(4, 4)), nn.Linear(4, 2)).state_dict() for _ in range(2)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_parts_of_computed_weights_are_refused(way, tmp_path):
    one, other = states(way)
    with pytest.raises(InputError, match="is a part of a weight that is computed"):
        merge([one, other])
    files = [save(state, tmp_path / f"{k}.safetensors") for k, state in enumerate((one, other))]
    with pytest.raises(InputError, match="is a part of a weight that is computed"):
        merge(files)


def test_older_weight_norm_is_refused_and_may_be_kept():
    with pytest.warns(FutureWarning):
        one, other = states(weight_norm)
    with pytest.raises(InputError, match=r"'0\.weight_v' is a part"):
        merge([one, other])
    kept = merge([one, other], keep={"0.weight_*": 1})
    assert torch.equal(kept["0.weight_v"], other["0.weight_v"])
    assert torch.equal(kept["1.bias"], (one["1.bias"] + other["1.bias"]) / 2)


def test_names_that_only_look_alike_are_merged():
    # RWKV has both; neither is a part of the other.
    names = ["att.time_mix_g", "att.time_mix_v", "mask_orig", "conv.weight_v", "weight_u"]
    one, other = ({name: torch.full((3,), value) for name in names} for value in (1.0, 3.0))
    assert all(
        torch.equal(tensor, torch.full((3,), 2.0)) for tensor in merge([one, other]).values()
    )
