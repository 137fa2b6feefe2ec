import pytest

from conjoin.checkpoints import closest_name, describe_name_difference, match_names
from conjoin.errors import InputError

NAMES = ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "head.weight"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", NAMES),
        ("encoder.*", NAMES[:3]),
        ("*.weight", ["encoder.0.weight", "encoder.1.weight", "head.weight"]),
        ("encoder.?.bias", ["encoder.0.bias"]),
        ("encoder.[1-9].*", ["encoder.1.weight"]),
        ("head.weight", ["head.weight"]),
    ],
)
def test_patterns_match_in_the_order_of_the_names(pattern: str, expected: list[str]) -> None:
    assert match_names(pattern, NAMES) == expected
    assert match_names(pattern, reversed(NAMES)) == expected[::-1]


def test_a_name_with_brackets_matches_itself() -> None:
    assert match_names("blocks[0]", ["blocks0", "blocks[0]"]) == ["blocks[0]"]


def test_upper_and_lower_case_differ() -> None:
    with pytest.raises(InputError):
        match_names("Head.*", NAMES)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("encodr.*", "encoder.0.weight"),
        ("*.wieght", "encoder.0.weight"),
        ("head.weigth", "head.weight"),
    ],
)
def test_a_pattern_without_a_match_suggests_names(typo: str, meant: str) -> None:
    with pytest.raises(InputError, match="matches none of the 4") as caught:
        match_names(typo, NAMES)
    assert repr(meant) in str(caught.value)


def test_no_suggestion_shows_what_names_look_like() -> None:
    with pytest.raises(InputError, match=r"names look like 'encoder\.0\.weight'"):
        match_names("zzzz", NAMES)
    with pytest.raises(InputError, match="no names"):
        match_names("*", [])


def test_closest_name() -> None:
    assert closest_name("head.wight", NAMES) == "head.weight"
    assert closest_name("q", NAMES) is None


def test_equal_sets_have_no_difference() -> None:
    assert describe_name_difference(NAMES, reversed(NAMES)) == ""


def test_difference_counts_all_and_shows_few() -> None:
    first = [f"layer{i}" for i in range(9)]
    text = describe_name_difference(first, ["x"], first_label="a.pt", second_label="b.pt", limit=2)
    assert text == "9 only in a.pt: 'layer0', 'layer1', ...\n1 only in b.pt: 'x'"


def test_a_prefix_is_recognized() -> None:
    text = describe_name_difference(["a", "b"], ["model.b", "model.a"])
    assert "equal but for the prefix 'model.' in the second" in text
    assert "prefix" not in describe_name_difference(["a", "b"], ["model.b", "net.a"])
