import pytest

from conjoin.cli.arguments import parse_keep, parse_parameters, parse_weights
from conjoin.errors import InputError


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("false", True, False),
        ("no", True, False),
        ("3", 1, 3),
        ("3", 0.5, 3.0),
        ("1e-3", 0.5, 0.001),
        ("-.5", 0.5, -0.5),
        ("word", "a", "word"),
        ("a=b", "a", "a=b"),
        ("null", None, None),
        ("7", None, 7),
    ],
)
def test_scalars(text, default, expected):
    found = parse_parameters([f"p={text}"], {"p": default})["p"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "default"),
    [("1", True), ("true", 1), ("0.5", 1), ("x", 0.5), ("3", "a"), ("2020-01-01", "a")],
)
def test_scalars_of_another_type(text, default):
    with pytest.raises(InputError, match="--set p takes"):
        parse_parameters([f"p={text}"], {"p": default})


def test_patterns_may_have_an_equals_sign():
    assert parse_keep(["a=b=1"]) == {"a=b": 1}


@pytest.mark.parametrize("text", ["a=-1", "a=1.0", "a=²", "=1", "a=", "a"])
def test_keep_that_cannot_be_used(text):
    with pytest.raises(InputError, match="--keep takes"):
        parse_keep([text])


def test_no_weights_is_none():
    assert parse_weights([]) is None
    assert parse_weights([" 1 , 2"]) == [1.0, 2.0]
