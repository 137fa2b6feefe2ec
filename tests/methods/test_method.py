"""What a row is asked before it is used."""

import pytest

from conjoin.errors import MethodError
from conjoin.methods import Method, Need


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


def test_the_engine_s_keywords_cannot_be_passed_as_parameters():
    def function(tensors, *, weights):
        raise NotImplementedError

    with pytest.raises(MethodError, match="no parameter 'weights'"):
        _method(function).check({"weights": [1]}, base=False, weights=False)
