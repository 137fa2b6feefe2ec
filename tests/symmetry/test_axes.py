"""Axis expressions: what is equated becomes one, what cannot be is pinned, and nothing else is."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.symmetry.axes import ONE, Atom, Axis, Product, Space, Sum, size_of_axis


@pytest.fixture
def space() -> Space:
    return Space()


def _sizes(space: Space, axis: Axis) -> list[int]:
    return [atom.size for atom in space.atoms(axis)]


def _free(space: Space, axis: Axis) -> list[Atom]:
    return [atom for atom in space.atoms(axis) if space.why_pinned(atom) is None]


def _pinned(space: Space, axis: Axis) -> list[bool]:
    return [space.why_pinned(atom) is not None for atom in space.atoms(axis)]


def test_atoms_that_are_equated_are_one(space):
    a, b, c = (space.atom(4) for _ in range(3))
    space.equate(a, b)
    space.equate(c, b)
    assert space.find(a) == space.find(b) == space.find(c)
    assert isinstance(space.find(a), Atom)


def test_a_stream_through_thousands_of_layers(space):
    atoms = [space.atom(4) for _ in range(5000)]
    for one, other in itertools.pairwise(atoms):
        space.equate(one, other)
    space.equate(atoms[0], Product((space.atom(2), space.pinned_atom(2, "an input"))))
    assert _pinned(space, atoms[-1]) == _pinned(space, atoms[0]) == [False, True]


def test_an_axis_of_one_position_is_nothing(space):
    a = space.atom(5)
    assert space.atom(1) == ONE
    assert list(space.atoms(ONE)) == []
    assert space.find(Product((ONE, a, ONE))) == a
    space.equate(ONE, space.atom(1))
    space.pin(ONE, "nothing")


def test_brackets_are_left_out(space):
    a, b, c = space.atom(2), space.atom(3), space.atom(5)
    assert space.find(Product((a, Product((b, c))))) == Product((a, b, c))
    assert space.find(Sum((a, Sum((b,)), Sum(()), Sum((c, a))))) == Sum((a, b, c, a))


def test_a_sum_in_front_is_multiplied_out(space):
    """(a + b) x c lies as a x c, then b x c; c x (a + b) does not."""
    a, b, c = space.atom(2), space.atom(3), space.atom(5)
    found = space.find(Product((Sum((a, b)), c)))
    assert found == Sum((Product((a, c)), Product((b, c))))
    assert space.find(Product((c, Sum((a, b))))) == Product((c, Sum((a, b))))
    assert space.find(Product((c, Sum((a, b)), a))) == Product(
        (c, Sum((Product((a, a)), Product((b, a)))))
    )


def test_finer_factors(space):
    """12 as 3 x 4, and as 3 x 2 x 2."""
    a, b = space.atom(3), space.atom(4)
    whole = space.atom(12)
    space.equate(whole, Product((a, b)))
    space.equate(whole, Product((space.atom(3), space.atom(2), space.atom(2))))
    assert _sizes(space, whole) == [3, 2, 2]
    assert _sizes(space, b) == [2, 2]
    assert space.find(whole) == Product((space.find(a), *space.find(b).factors))
    assert _pinned(space, whole) == [False] * 3


def test_factors_of_both_sides_are_refined(space):
    """24 as 4 x 6 and as 2 x 12: common parts are 2 x 2 x 6."""
    whole = space.atom(24)
    space.equate(whole, Product((space.atom(4), space.atom(6))))
    space.equate(whole, Product((space.atom(2), space.atom(12))))
    assert _sizes(space, whole) == [2, 2, 6]
    assert _pinned(space, whole) == [False] * 3


def test_views_without_common_parts_are_pinned(space):
    """12 as 3 x 4 and as 2 x 6."""
    three, six = space.atom(3), space.atom(6)
    one, other = Product((three, space.atom(4))), Product((space.atom(2), six))
    space.equate(one, other)
    assert all(_pinned(space, one))
    assert all(_pinned(space, other))
    assert space.why_pinned(three) == "two views of it have no common parts"


def test_sums_are_cut_at_all_borders(space):
    """7 as 3 + 4 and as 5 + 2: common parts are 3 + 2 + 2."""
    a, b, c, d = space.atom(3), space.atom(4), space.atom(5), space.atom(2)
    space.equate(Sum((a, b)), Sum((c, d)))
    assert _sizes(space, Sum((a, b))) == [3, 2, 2]
    assert space.find(Sum((a, b))) == space.find(Sum((c, d)))
    assert space.find(c).segments[0] == space.find(a)
    assert not any(_pinned(space, c))


def test_a_sum_and_a_product(space):
    """12 as 4 x 3 and as 6 + 6: the 4 is 2 + 2."""
    four, three, six = space.atom(4), space.atom(3), space.atom(6)
    space.equate(Product((four, three)), Sum((six, space.atom(6))))
    assert _sizes(space, four) == [2, 2]
    assert space.find(six) == Product((space.find(four).segments[0], space.find(three)))
    assert not any(_pinned(space, six))


def test_a_sum_inside_of_a_product(space):
    """24 as 4 x (2 + 4) and as 2 x 2 x 3 x 2: the 3 is 1 + 2."""
    two, four, three = space.atom(2), space.atom(4), space.atom(3)
    one = Product((space.atom(4), Sum((two, four))))
    other = Product((space.atom(2), space.atom(2), three, space.atom(2)))
    space.equate(one, other)
    assert space.find(one) == space.find(other)
    assert _sizes(space, three) == [2]
    assert _sizes(space, four) == [2, 2]
    assert not any(_pinned(space, one))


def test_a_factor_is_refined_for_a_sum(space):
    """12 as (2 + 4) x 2, which is 4 + 8, and as 3 x 4."""
    one = Product((Sum((space.atom(2), space.atom(4))), space.atom(2)))
    three, four = space.atom(3), space.atom(4)
    space.equate(Product((space.atom(5), one)), Product((space.atom(5), three, four)))
    assert _sizes(space, three) == [2]
    assert _sizes(space, four) == [2, 2]
    assert not any(_pinned(space, one))


def test_a_sum_with_a_border_inside_a_product_is_pinned(space):
    """12 as 4 x 3 and as 5 + 7: the border is inside of a 3."""
    four, five = space.atom(4), space.atom(5)
    product, total = Product((four, space.atom(3))), Sum((five, space.atom(7)))
    space.equate(product, total)
    assert all(_pinned(space, product))
    assert all(_pinned(space, total))


def test_axes_of_different_sizes_are_pinned(space):
    a, b = space.atom(3), space.atom(4)
    space.equate(a, b)
    assert (_pinned(space, a), _pinned(space, b)) == ([True], [True])
    assert (_sizes(space, a), _sizes(space, b)) == ([3], [4])


def test_a_dimension_without_positions(space):
    nothing = Product((space.atom(0), space.atom(3)))
    space.equate(nothing, Sum(()))
    space.equate(Sum(()), space.atom(0))


def test_pins_travel_both_ways(space):
    a, b = space.atom(4), space.pinned_atom(4, "first")
    space.equate(a, b)
    assert space.why_pinned(space.find(a)) == "first"
    c, d = space.pinned_atom(4, "second"), space.atom(4)
    space.equate(c, d)
    assert space.why_pinned(space.find(d)) == "second"


def test_what_is_pinned_stays_so_in_its_parts(space):
    whole, inner = space.pinned_atom(12, "an input"), space.atom(4)
    space.equate(whole, Product((space.atom(3), inner)))
    assert space.why_pinned(space.find(inner)) == "an input"


def test_only_the_part_that_is_pinned_is(space):
    whole, channels, places = space.atom(12), space.atom(4), space.pinned_atom(3, "places")
    space.equate(whole, Product((channels, places)))
    assert _pinned(space, whole) == [False, True]


def test_the_first_reason_stays(space):
    a = space.pinned_atom(3, "first")
    space.pin(a, "second")
    assert space.why_pinned(a) == "first"


def test_split(space):
    whole = space.atom(12)
    parts = space.split(whole, [3, 1, 4])
    assert [size_of_axis(part) for part in parts] == [3, 1, 4]
    assert space.find(whole) == Product((parts[0], parts[2]))


def test_cut(space):
    whole = space.atom(9)
    pieces = space.cut(whole, [0, 2, 2, 5, 9])
    assert [size_of_axis(piece) for piece in pieces] == [0, 2, 0, 3, 4, 0]
    assert _sizes(space, whole) == [2, 3, 4]


def test_cut_between_whole_rows(space):
    """6 x 4 is cut after 8 = 2 x 4 positions."""
    whole = Product((space.atom(6), space.atom(4)))
    first, second = space.cut(whole, [8])
    assert _sizes(space, first) == [2, 4]
    assert _sizes(space, second) == [4, 4]
    assert space.find(first).factors[1] == space.find(second).factors[1]


def test_cut_inside_a_row_is_refused(space):
    whole = Product((space.atom(6), space.atom(4)))
    assert space.cut(whole, [6]) is None
    assert _pinned(space, whole) == [True, True]


def test_equate_all(space):
    a, b, c = (space.atom(4) for _ in range(3))
    assert space.equate_all([]) == ONE
    assert space.find(space.equate_all([a, b, c])) == space.find(c) == space.find(b)


def test_an_atom_is_no_part_of_itself(space):
    """Sums that repeat an atom, shifted: it is cut until both agree; there is an end."""
    a, b = space.atom(2), space.atom(3)
    space.equate(Sum((a, a, b)), Sum((b, a, a)))
    assert space.find(Sum((a, a, b))) == space.find(Sum((b, a, a)))


@st.composite
def _axes(draw, size: int, depth: int = 2) -> str | tuple:
    """A recipe of an axis of a size: an atom of it by number, a product, or a sum."""
    kinds = ["atom"]
    factors = [n for n in range(2, size) if size % n == 0]
    if depth and factors:
        kinds.append("product")
    if depth and size > 1:
        kinds.append("sum")
    kind = draw(st.sampled_from(kinds))
    if kind == "atom":
        return ("atom", size, draw(st.integers(0, 1)))
    if kind == "product":
        first = draw(st.sampled_from(factors))
        sizes = [first, size // first]
    else:
        first = draw(st.integers(1, size - 1))
        sizes = [first, size - first]
    return (kind, *(draw(_axes(one, depth - 1)) for one in sizes))


def _made(recipe: tuple, space: Space, atoms: dict) -> Axis:
    kind, *rest = recipe
    if kind == "atom":
        size, number = rest
        if (size, number) not in atoms:
            atoms[size, number] = space.atom(size)
        return atoms[size, number]
    parts = tuple(_made(part, space, atoms) for part in rest)
    return Product(parts) if kind == "product" else Sum(parts)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from([4, 6, 12, 24]).flatmap(lambda n: st.tuples(_axes(n), _axes(n))),
        min_size=1,
        max_size=5,
    )
)
def test_equating_is_safe(pairs):
    """Whatever is equated: sizes stay, and both sides are one, or pinned.

    To do it again frees and binds nothing; what is pinned may be cut finer.
    """
    space, atoms = Space(), {}
    made = [(_made(a, space, atoms), _made(b, space, atoms)) for a, b in pairs]
    sizes = [size_of_axis(a) for a, _ in made]
    for one, other in made:
        space.equate(one, other)
    for (one, other), size in zip(made, sizes, strict=True):
        assert size_of_axis(space.find(one)) == size_of_axis(space.find(other)) == size
        both = [*space.atoms(one), *space.atoms(other)]
        assert space.find(one) == space.find(other) or all(map(space.why_pinned, both))
    before = [_free(space, one) for one, _ in made]
    for one, other in made:
        space.equate(one, other)
    assert [_free(space, one) for one, _ in made] == before
