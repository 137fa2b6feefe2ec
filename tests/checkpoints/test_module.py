import pytest
import torch
from torch import nn

from conjoin.checkpoints import Kind, from_module
from conjoin.errors import CheckpointError


class FrozenBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(2))
        self.register_buffer("eps", torch.tensor(1e-5))


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.index = nn.Parameter(torch.arange(3), requires_grad=False)
        self.phase = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("weight", torch.zeros(3))
        self.register_buffer("recomputed", torch.zeros(3), persistent=False)
        self.register_buffer("running_var", torch.ones(3))


def _kinds(module: nn.Module) -> dict[str, str]:
    return {name: spec.kind.value for name, spec in from_module(module).specs.items()}


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2),
     nn.InstanceNorm2d(2, affine=True, track_running_stats=True)],
)  # fmt: skip
def test_normalization(norm: nn.Module) -> None:
    assert _kinds(norm) == {
        "weight": "weight",
        "bias": "weight",
        "running_mean": "statistic",
        "running_var": "statistic",
        "num_batches_tracked": "counter",
    }


def test_frozen_batch_norm_keeps_its_weights_in_buffers() -> None:
    assert _kinds(FrozenBatchNorm()) == {
        "weight": "weight",
        "bias": "weight",
        "running_mean": "statistic",
        "running_var": "statistic",
        "eps": "constant",
    }


def test_custom_modules() -> None:
    assert _kinds(Custom()) == {
        "index": "constant",
        "phase": "weight",
        "frozen": "weight",
        "weight": "constant",  # a buffer, without a running mean beside it
        "running_var": "statistic",
    }


def test_order_names_and_memory_are_those_of_the_state_dict() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    checkpoint = from_module(model)
    expected = model.state_dict()
    assert list(checkpoint) == list(expected)
    for name, tensor in checkpoint.items():
        assert tensor.data_ptr() == expected[name].data_ptr()
        assert not tensor.requires_grad
    with torch.no_grad():
        model[3].bias.fill_(7)
    assert checkpoint["3.bias"].tolist() == [7, 7]
    assert checkpoint.source == "module Sequential"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_parameters(device: str) -> None:
    with torch.device(device):
        model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    specs = from_module(model).specs
    assert specs["head.weight"].alias_of == "embed.weight"
    assert specs["embed.weight"].alias_of is None


def test_a_module_used_twice_is_tied() -> None:
    layer = nn.BatchNorm1d(2)
    specs = from_module(nn.Sequential(layer, nn.Linear(2, 2), layer)).specs
    assert specs["2.running_var"].alias_of == "0.running_var"
    assert specs["2.running_var"].kind is Kind.STATISTIC


def test_parametrizations_show_what_they_store() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert _kinds(linear) == {
        "bias": "weight",
        "parametrizations.weight.original0": "weight",
        "parametrizations.weight.original1": "weight",
    }


def test_state_dict_hooks_may_rename() -> None:
    model = nn.Sequential(FrozenBatchNorm())

    def rename(module: nn.Module, state: dict[str, object], prefix: str, _: object) -> None:
        for name in list(state):
            state[f"renamed.{name}"] = state.pop(name)

    model._register_state_dict_hook(rename)
    assert _kinds(model)["renamed.0.eps"] == "constant"
    assert _kinds(model)["renamed.0.weight"] == "weight"


@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.LazyBatchNorm1d()])
def test_lazy_modules_are_refused(lazy: nn.Module) -> None:
    with pytest.raises(CheckpointError, match="run one batch"):
        from_module(lazy)


def test_extra_state_is_refused() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 1}

    with pytest.raises(CheckpointError, match=r"'0\._extra_state' in module Sequential"):
        from_module(nn.Sequential(Extra(1, 1)))
