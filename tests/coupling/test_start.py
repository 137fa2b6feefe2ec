"""Which models can be coupled at all."""

import pytest
import torch
from coupling_toys import Net, Tensors, adamw, made, sgd, train
from torch import nn

from conjoin.coupling import Coupling, copies_of, cycle
from conjoin.errors import DataError, InputError, MismatchError


def test_another_start_is_refused_by_the_tensors_name():
    torch.manual_seed(0)
    nets = {"mnist": Net(), "svhn": Net()}
    models = {name: (net, sgd(0.1)(net.parameters())) for name, net in nets.items()}
    with pytest.raises(MismatchError, match="'mnist' and 'svhn' do not start.*'block_1.0.weight'"):
        Coupling(models, 1.0)
    with pytest.raises(MismatchError, match="'classifier.weight' differs by up to"):
        Coupling(models, {"classifier.*": 1.0})
    nets["svhn"].block_1.load_state_dict(nets["mnist"].block_1.state_dict())
    Coupling(models, {"block_1.*": 1.0})  # what is private may start anywhere


def test_any_start_is_taken_by_choice():
    nets = {"a": Tensors(w=[3.0]), "b": Tensors(w=[-5.0])}
    models = {name: (net, sgd(0.1)(net.parameters())) for name, net in nets.items()}
    train(models, Coupling(models, 1.0, start="any"), 300, [1.0, -1.0])
    assert nets["a"].w.item() == pytest.approx(0.2)


def test_statistics_may_differ_at_the_start():
    models = made(Net(), sgd(0.1))
    models["b"][0].block_1[1].running_mean.fill_(7.0)
    Coupling(models, 1.0)


def test_a_refused_coupling_leaves_nothing_in_the_optimizers():
    nets = {"a": Tensors(w=[3.0]), "b": Tensors(w=[-5.0])}
    models = {name: (net, sgd(0.1)(net.parameters())) for name, net in nets.items()}
    with pytest.raises(MismatchError):
        Coupling(models, 1.0)
    assert not any(optimizer._optimizer_step_post_hooks for _, optimizer in models.values())


def test_other_names_and_shapes_are_refused_where_coupled():
    nets = {"a": Net(3), "b": Net(5)}
    nets["b"].load_state_dict(
        {**nets["b"].state_dict(), **{n: v for n, v in nets["a"].state_dict().items()
                                      if not n.startswith("classifier")}}
    )  # fmt: skip
    models = {name: (net, sgd(0.1)(net.parameters())) for name, net in nets.items()}
    message = r"'classifier.weight' has different shapes: \[3, 16\] in 'a', \[5, 16\] in 'b'"
    with pytest.raises(MismatchError, match=message):
        Coupling(models, 1.0)
    coupling = Coupling(models, {"classifier.*": 0.0, "*": 1.0})
    assert "classifier" not in coupling.gap()
    nets["b"].classifier = nn.Sequential(nn.Linear(16, 5))
    models["b"] = (nets["b"], sgd(0.1)(nets["b"].parameters()))
    with pytest.raises(MismatchError, match="'classifier.weight' is not in 'b'"):
        Coupling(models, 1.0)
    Coupling(models, {"classifier.*": 0.0, "*": 1.0})


def test_a_tensor_that_the_first_model_lacks_is_refused_too():
    nets = {"a": Tensors(w=[1.0]), "b": Tensors(w=[1.0], more=[1.0])}
    models = {name: (net, sgd(0.1)(net.parameters())) for name, net in nets.items()}
    with pytest.raises(MismatchError, match="'more' is not in 'a'"):
        Coupling(models, 1.0)
    assert Coupling(models, {"w": 1.0}).strengths() == {"w": 1.0, "more": 0.0}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "two or more models; 0 is given"),
        ([1, 2], "takes {name: .module, optimizer.}"),
        ({"a": 1, "b": 2}, "'a' must be a pair"),
        ({"a": (nn.Linear(1, 1), None), "b": 2}, "'a' needs .module, optimizer.*NoneType"),
        ({"a": (None, None), "b": 2}, "'a' must be a pair"),
    ],
    ids=["none", "a list", "no pair", "no optimizer", "no module"],
)
def test_what_is_no_models(models, message):
    with pytest.raises(InputError, match=message):
        Coupling(models, 1.0)


def test_one_model_is_not_enough_and_two_must_not_share():
    models = made(Tensors(w=[1.0]), sgd(0.1))
    with pytest.raises(InputError, match="1 is given"):
        Coupling({"a": models["a"]}, 1.0)
    with pytest.raises(InputError, match="'a' and 'b' share the parameter 'w'.*copies_of"):
        Coupling({"a": models["a"], "b": models["a"]}, 1.0)


def test_subclasses_of_known_optimizers_are_not_taken_for_them():
    class Mine(torch.optim.SGD):
        pass

    with pytest.raises(InputError, match="trained by Mine"):
        Coupling(made(Tensors(w=[1.0]), lambda parameters: Mine(parameters, 0.1)), 1.0)


def test_tied_tensors_are_pulled_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.other = nn.Linear(2, 2, bias=False)
            self.other.weight = self.one.weight

    models = made(Tied().double(), sgd(0.1))
    before = models["a"][0].one.weight.detach().clone()
    coupling = Coupling(models, 1.0)
    train(models, coupling, 1, [1.0, -1.0])
    assert list(coupling.strengths()) == ["one.weight"]
    a, b = (before - 0.1 * (before - t) for t in (1.0, -1.0))
    expected = (a + b) / 2 + (a - b) / 2 / (1 + 4 * 0.1)
    torch.testing.assert_close(models["a"][0].one.weight.detach(), expected)


def test_strength_0_is_independent_training_bit_for_bit():
    torch.manual_seed(0)
    start = Net(dropout=0.0)
    for optimizer in (sgd(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3), adamw(0.01)):
        models, alone = made(start, optimizer), made(start, optimizer)
        coupling = Coupling(models, 0.0)
        for step in range(5):
            for pairs in (models, alone):
                for task, (net, made_by) in enumerate(pairs.values()):
                    net.zero_grad()
                    generator = torch.Generator().manual_seed(10 * task + step)
                    net(torch.randn(4, 1, 6, 6, generator=generator)).square().sum().backward()
                    if pairs is alone:
                        made_by.step()
            coupling.step()
        for (one, _), (other, _) in zip(models.values(), alone.values(), strict=True):
            state = other.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_copies_are_equal_and_apart():
    net = Net()
    nets = copies_of(net, (name for name in ("mnist", "svhn")))
    assert list(nets) == ["mnist", "svhn"]
    models = {name: (copy_, sgd(0.1)(copy_.parameters())) for name, copy_ in nets.items()}
    Coupling(models, 1.0)
    with torch.no_grad():
        nets["mnist"].classifier.bias.add_(1)
    assert torch.equal(nets["svhn"].classifier.bias, net.classifier.bias)
    with pytest.raises(InputError, match="a name is there twice"):
        copies_of(net, ["a", "a"])


def test_cycle_by_hand():
    a, b = [1, 2], [10, 20, 30, 40, 50]
    pairs = [(1, 10), (2, 20), (1, 30), (2, 40), (1, 50)]
    assert list(cycle({"a": a, "b": b})) == [{"a": x, "b": y} for x, y in pairs]
    assert list(cycle({"b": b, "a": a})) == [{"b": y, "a": x} for x, y in pairs]
    assert list(cycle({"a": a, "b": b}, 3)) == [{"a": x, "b": y} for x, y in pairs[:3]]
    assert len(list(cycle({"a": a, "b": b}, 12))) == 12
    assert list(cycle({"a": a, "b": b}, 12))[5:7] == [{"a": 2, "b": 10}, {"a": 1, "b": 20}]
    assert list(cycle({"a": a, "b": a})) == [{"a": 1, "b": 1}, {"a": 2, "b": 2}]
    assert list(cycle({"a": a}, 0)) == []


def test_cycle_shuffles_anew():
    loader = torch.utils.data.DataLoader(
        range(6), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    found = [batch["a"].tolist() for batch in cycle({"a": loader, "b": range(8)})]
    assert len(found) == 8
    for first in range(0, 8, 2):
        assert sorted(found[first] + found[first + 1]) == list(range(6))
    assert found[:2] != found[2:4]


def test_what_cannot_be_cycled():
    with pytest.raises(InputError, match="at least one loader"):
        next(cycle({}))
    with pytest.raises(DataError, match="'b' gave no batch$"):
        list(cycle({"a": [1], "b": []}))
    with pytest.raises(DataError, match="'b' gave no batch a second time: pass a list"):
        list(cycle({"a": [1, 2, 3], "b": iter([1])}))
