"""Axis expressions: of which independent parts the axes of tensors are made.

    axis     = a sum of segments, one after another (`cat` makes sums)
    segment  = a product of factors, the first the slowest (`reshape` makes products)
    factor   = an atom: a set of positions that may be put into another order, as a whole

Two axes that an operation matches position by position are *equated*: their atoms become the same,
and are cut finer where one axis has parts that the other has not. What may not be reordered is
*pinned*, with a reason. Nothing is ever guessed: axes that cannot be brought onto common parts are
pinned, both.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["ONE", "Atom", "Axes", "Axis", "Product", "Space", "Sum", "size_of_axis"]


@dataclass(frozen=True, slots=True)
class Atom:
    """Positions that move together; `Space` knows what they have been found to be made of."""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major: the last factor is the fastest. The empty product has one position."""

    factors: tuple["Axis", ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Segments one after another."""

    segments: tuple["Axis", ...]


Axis = Atom | Product | Sum
Axes = tuple[Axis, ...]

ONE = Product(())
"""An axis of size 1, in which there is nothing to reorder."""


def size_of_axis(axis: Axis) -> int:
    """Count the positions.

    >>> size_of_axis(Product((Atom(0, 3), Sum((Atom(1, 2), Atom(2, 5))))))
    21
    """
    if isinstance(axis, Atom):
        return axis.size
    if isinstance(axis, Product):
        return math.prod(map(size_of_axis, axis.factors))
    return sum(map(size_of_axis, axis.segments))


@dataclass
class Space:
    """All atoms of a network, and what has been found about them.

    >>> space = Space()
    >>> flat, channels, pixels = space.atom(12), space.atom(4), space.atom(3)
    >>> space.equate(flat, Product((channels, pixels)))
    >>> space.pin(pixels, "its order matters to a convolution")
    >>> space.find(flat) == Product((channels, pixels))
    True
    """

    seen: list[Axes] = field(default_factory=list)
    _bound: dict[int, Axis] = field(default_factory=dict)
    _pinned: dict[int, str] = field(default_factory=dict)
    _count: int = 0

    def atom(self, size: int) -> Axis:
        """Make a new atom, free; of size 1 it is nothing."""
        if size == 1:
            return ONE
        self._count += 1
        return Atom(self._count, size)

    def pinned_atom(self, size: int, reason: str) -> Axis:
        """Make a new atom that may not be reordered."""
        made = self.atom(size)
        self.pin(made, reason)
        return made

    def find(self, axis: Axis) -> Axis:
        """Give what an axis is known to be made of: atoms not bound, without nested brackets.

        A sum is multiplied with the factors after it, since its segments lie one after another:
        ``(a + b) x c`` is ``a x c + b x c``.
        """
        if isinstance(axis, Atom):
            found: Axis = axis
            passed = []  # many, where a residual stream has many norms: no recursion
            while isinstance(found, Atom) and found.number in self._bound:
                passed.append(found.number)
                found = self._bound[found.number]
            found = found if isinstance(found, Atom) else self.find(found)
            self._bound.update(dict.fromkeys(passed, found))
            return found
        if isinstance(axis, Sum):
            segments: list[Axis] = []
            for segment in axis.segments:
                one = self.find(segment)
                segments.extend(one.segments if isinstance(one, Sum) else [one])
            return segments[0] if len(segments) == 1 else Sum(tuple(segments))
        factors: list[Axis] = []
        for factor in axis.factors:
            one = self.find(factor)
            factors.extend(one.factors if isinstance(one, Product) else [one])
        if len(factors) == 1:
            return factors[0]
        for place, one in enumerate(factors[:-1]):
            if isinstance(one, Sum):
                rest = factors[place + 1 :]
                done = self.find(Sum(tuple(Product((s, *rest)) for s in one.segments)))
                return Product((*factors[:place], done)) if place else done
        return Product(tuple(factors))

    def pin(self, axis: Axis, reason: str) -> None:
        """Forbid that anything in an axis is reordered."""
        for atom in self.atoms(axis):
            self._pinned.setdefault(atom.number, reason)

    def together(self, *axes: Axis) -> None:
        """Say that axes meet in a calculation, though no tensor may have just these.

        A softmax over i of x[i, j] mixes positions of i at one j: j may not be reordered apart for
        each i, although it never stands without i. Then j is said to be met alone.
        """
        self.seen.append(axes)

    def why_pinned(self, atom: Atom) -> str | None:
        """Say why an atom may not be reordered; None if it may."""
        return self._pinned.get(atom.number)

    def atoms(self, axis: Axis) -> Iterator[Atom]:
        """Give the atoms of an axis, as often as they occur."""
        found = self.find(axis)
        if isinstance(found, Atom):
            yield found
        else:
            parts = found.factors if isinstance(found, Product) else found.segments
            for part in parts:
                yield from self.atoms(part)

    def equate(self, first: Axis, second: Axis) -> None:
        """Say that two axes are matched position by position; of two sizes, they are pinned."""
        one, other = self.find(first), self.find(second)
        size = size_of_axis(one)
        if one == other or size == size_of_axis(other) == 0:
            return
        if size != size_of_axis(other):
            self._fail(one, other)
        elif isinstance(one, Atom):
            self._bind(one, other)
        elif isinstance(other, Atom):
            self._bind(other, one)
        elif isinstance(one, Sum) or isinstance(other, Sum):
            self._equate_sums(one, other)
        else:
            self._equate_products(one, other)

    def equate_all(self, axes: Iterable[Axis]) -> Axis:
        """Equate several axes; give one of them, or `ONE` if there is none."""
        found = list(axes)
        for other in found[1:]:
            self.equate(found[0], other)
        return found[0] if found else ONE

    def split(self, axis: Axis, sizes: Sequence[int]) -> Axes:
        """Give the axes of a view that splits one: their product is that axis."""
        made = tuple(self.atom(size) for size in sizes)
        self.equate(axis, Product(made))
        return made

    def cut(self, axis: Axis, places: Sequence[int]) -> list[Axis] | None:
        """Cut an axis at some places, in order; None (and it is pinned) if that cannot be done."""
        pieces: list[Axis] = []
        rest, done = self.find(axis), 0
        for place in places:
            halves = self._cut_once(rest, place - done)
            if halves is None:
                self.pin(axis, "it is cut where its parts have no border")
                return None
            pieces.append(halves[0])
            rest, done = halves[1], place
        return [*pieces, rest]

    def _cut_once(self, axis: Axis, place: int) -> tuple[Axis, Axis] | None:
        axis = self.find(axis)
        size = size_of_axis(axis)
        if place in (0, size):
            nothing = Sum(())
            return (nothing, axis) if place == 0 else (axis, nothing)
        if isinstance(axis, Sum):
            before: list[Axis] = []
            for number, segment in enumerate(axis.segments):
                length = size_of_axis(segment)
                if place < length:
                    halves = self._cut_once(segment, place)
                    if halves is None:
                        return None
                    after = axis.segments[number + 1 :]
                    left = Sum((*before, halves[0])) if place else Sum(tuple(before))
                    return left, Sum((halves[1], *after))
                before.append(segment)
                place -= length
                if place == 0:
                    return Sum(tuple(before)), Sum(axis.segments[number + 1 :])
            return None
        factors = axis.factors if isinstance(axis, Product) else (axis,)
        first, rest = factors[0], factors[1:]
        inner = math.prod(map(size_of_axis, rest))
        if place % inner or not isinstance(first, Atom):
            return None
        halves = self.atom(place // inner), self.atom(first.size - place // inner)
        self._bind(first, Sum(halves))
        return Product((halves[0], *rest)), Product((halves[1], *rest))

    def _bind(self, atom: Atom, axis: Axis) -> None:
        if any(found == atom for found in self.atoms(axis)):
            self.pin(axis, "it would have to be a part of itself")
            return
        reason = self._pinned.get(atom.number)
        if reason is not None:
            self.pin(axis, reason)
        self._bound[atom.number] = axis

    def _equate_sums(self, one: Axis, other: Axis) -> None:
        places = sorted({*self._borders(one), *self._borders(other)})
        first, second = self.cut(one, places), self.cut(other, places)
        if first is None or second is None:
            self._fail(one, other)
            return
        for left, right in zip(first, second, strict=True):
            self.equate(left, right)

    def _borders(self, axis: Axis) -> Iterator[int]:
        place = 0
        if isinstance(axis, Sum):
            for segment in axis.segments[:-1]:
                place += size_of_axis(segment)
                yield place

    def _equate_products(self, one: Axis, other: Axis) -> None:
        left: list[Axis] = list(one.factors) if isinstance(one, Product) else [one]
        right: list[Axis] = list(other.factors) if isinstance(other, Product) else [other]
        while left and right:
            first, second = self.find(left.pop(0)), self.find(right.pop(0))
            # A factor may have been cut meanwhile.
            if isinstance(first, Product):
                left[:0], right[:0] = first.factors, [second]
                continue
            if isinstance(second, Product):
                left[:0], right[:0] = [first], second.factors
                continue
            size, size_of_second = size_of_axis(first), size_of_axis(second)
            if size == size_of_second:
                self.equate(first, second)
                continue
            if size < size_of_second:
                left, right, first, second = right, left, second, first
            whole = None
            if isinstance(first, Sum):
                whole = self._of_size(size_of_axis(first), [second, *right])
            if whole is not None:
                self.equate(first, whole[0])
                right = whole[1]
            elif isinstance(first, Atom) and first.size % size_of_axis(second) == 0:
                left[:0], right[:0] = self._refine(first, size_of_axis(second)), [second]
            else:
                self._fail(one, other)
                return

    def _of_size(self, size: int, factors: Sequence[Axis]) -> tuple[Axis, list[Axis]] | None:
        """Take the first factors that together have a size, and the others; None if none have.

        The last one is refined for that, if it can be.
        """
        for count, factor in enumerate(factors):
            taken, rest = factors[:count], list(factors[count + 1 :])
            have, more = math.prod(map(size_of_axis, taken)), size_of_axis(factor)
            if have * more == size:
                return Product((*taken, factor)), rest
            if have * more > size:
                found = self.find(factor)
                if size % have or not isinstance(found, Atom) or more % (size // have):
                    return None
                slow, fast = self._refine(found, size // have)
                return Product((*taken, slow)), [fast, *rest]
        return None

    def _refine(self, atom: Atom, slow: int) -> tuple[Axis, Axis]:
        parts = self.atom(slow), self.atom(atom.size // slow)
        self._bind(atom, Product(parts))
        return parts

    def _fail(self, one: Axis, other: Axis) -> None:
        reason = "two views of it have no common parts"
        self.pin(one, reason)
        self.pin(other, reason)
