"""What a row is asked before it is used."""

import pytest
import torch

from conjoin.errors import MethodError
from conjoin.methods import METHODS, Method, Need


def _method(function, **keywords):
    return Method("it", function, "f", **keywords)


def test_the_engine_s_keywords_are_no_parameters_of_the_user():
    def function(tensors, *, base, weights, summary, generator, statistics, density=0.2, k):
        raise NotImplementedError

    method = _method(function)
    assert list(method.defaults) == ["density", "k"]
    assert method.defaults["density"] == 0.2
    assert method.is_random
    assert not _method(lambda tensors: None).is_random


def test_parameters_are_checked():
    def function(tensors, *, density=0.2, rank):
        raise NotImplementedError

    method = _method(function)
    method.check({"rank": 1}, base=False, weights=False)
    with pytest.raises(MethodError, match="it needs the parameters rank"):
        method.check({"density": 1}, base=False, weights=False)
    with pytest.raises(MethodError, match=r"'densty'; did you mean 'density'\?.*density, rank"):
        method.check({"densty": 1}, base=False, weights=False)
    with pytest.raises(MethodError, match="no parameter 'x'.*none"):
        _method(lambda tensors: None).check({"x": 1}, base=False, weights=False)


def test_base_and_weights_are_checked():
    plain = _method(lambda tensors: None)
    both = _method(lambda tensors: None, needs=frozenset({Need.BASE, Need.WEIGHTS}))
    both.check({}, base=True, weights=True)
    both.check({}, base=True, weights=False)  # weights have a default: all are equal
    for method, base, weights, message in (
        (plain, True, False, "it uses no base"),
        (plain, False, True, "it takes no weights"),
        (both, False, True, "pass base="),
    ):
        with pytest.raises(MethodError, match=message):
            method.check({}, base=base, weights=weights)


def test_a_base_may_be_optional():
    def function(tensors, *, base=None):
        raise NotImplementedError

    may = _method(function, optional=frozenset({Need.BASE}))
    must = _method(function, needs=frozenset({Need.BASE}))
    may.check({}, base=True, weights=False)
    may.check({}, base=False, weights=False)
    assert may.takes_base
    assert must.takes_base
    assert not _method(function).takes_base


def test_some_parameters_need_whole_tensors():
    def function(tensors, *, rows=False, flat=True, scale=1.0):
        raise NotImplementedError

    method = _method(function, whole_with=frozenset({"rows", "flat"}))
    assert method.in_blocks({})
    assert method.in_blocks({"rows": False, "flat": True, "scale": 2.0})
    assert not method.in_blocks({"rows": True})
    assert not method.in_blocks({"flat": False})
    assert not _method(function, elementwise=False).in_blocks({})


def test_the_engine_s_keywords_cannot_be_passed_as_parameters():
    def function(tensors, *, weights):
        raise NotImplementedError

    with pytest.raises(MethodError, match="no parameter 'weights'"):
        _method(function).check({"weights": [1]}, base=False, weights=False)


@pytest.mark.parametrize(("name", "right", "wrong"), [("slerp", 2, 1), ("slerp", 2, 3),
                                                       ("passthrough", 1, 2)])  # fmt: skip
def test_the_number_of_models_is_checked(name, right, wrong):
    METHODS[name].check({}, base=False, weights=False, models=right)
    METHODS[name].check({}, base=False, weights=False)
    with pytest.raises(MethodError, match=f"{name} merges exactly {right} model.*here are {wrong}"):
        METHODS[name].check({}, base=False, weights=False, models=wrong)


def test_too_few_models_are_refused():
    method = _method(lambda tensors: None, least=2)
    for models in (None, 2, 5):
        method.check({}, base=False, weights=False, models=models)
    with pytest.raises(MethodError, match="it merges at least 2 models, and here are 1"):
        method.check({}, base=False, weights=False, models=1)


def test_parameters_per_model():
    assert METHODS["ties"].per_model == {"density"}
    assert METHODS["dare_linear"].per_model == METHODS["dare_ties"].per_model == {"density"}
    assert METHODS["linear"].per_model == METHODS["slerp"].per_model == frozenset()


@pytest.mark.parametrize(
    ("name", "parameters", "weights"),
    [
        ("linear", {}, [1, -1]),
        ("task_arithmetic", {"normalize": True}, [1, -1]),
        ("dare_linear", {"normalize": True}, [1, -1]),
        ("ties", {"merge": "weighted"}, [1, -1]),
        ("ties", {}, [1, 2, 3]),
        ("dare_ties", {"merge": "weighted"}, [1, -1]),
        ("dare_ties", {}, [1, float("nan")]),
        ("ties", {"density": [0.1, 0.2, 0.3], "rescale": "l1"}, [1, 2]),
    ],
)
def test_a_rehearsal_finds_what_the_method_refuses(name, parameters, weights):
    with pytest.raises(MethodError):
        METHODS[name].rehearse(parameters, models=2, weights=weights)


def test_a_rehearsal_of_what_works():
    for row in METHODS.values():
        row.rehearse({}, models=row.models or 3)
    METHODS["ties"].rehearse({"density": [0.1, 1], "per": "tensor"}, models=2, weights=[1, -1])


def test_a_rehearsal_gives_weights_base_and_generator_by_name():
    seen = []

    def summarize(total, *, weights, rank=2):
        def count(tensors, *, base, generator):
            seen.append((len(tensors), base.numel(), isinstance(generator, torch.Generator)))
            return torch.zeros(1)

        return total(count) + sum(weights) * rank

    def function(tensors, *, base, weights, summary, rank=2):
        seen.append((summary.item(), weights))
        return base

    row = Method("it", function, "f", summarize=summarize)
    row.rehearse({"rank": 3}, models=2, weights=[1, 2])
    assert seen == [(2, 0, True), (9, [1, 2])]
