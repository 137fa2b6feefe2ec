"""What the atoms of a network mean for its tensors: groups of axes that move together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from conjoin.symmetry.axes import Atom, Axes, Axis, Product, Sum
from conjoin.symmetry.solving import Solved

__all__ = ["Group", "Layout", "Part", "layout_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """An axis in its final form.

    Args:
        kind: ``atom``, ``product`` or ``sum``.
        name: of an atom; there is a group of this name unless it is pinned.
        size: of an atom.
        parts: of a product or a sum.
    """

    kind: str
    name: str | None = None
    size: int = 1
    parts: tuple["Part", ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Positions that may be put into any order, everywhere at once.

    Args:
        name: tensor and dimension where it occurs first.
        size: how many positions.
        within: names of the atoms that it may be reordered for apart: each head of an attention,
            for instance, has its own order of inner units.
        copies: sizes of those.
        members: (tensor, dimension) where it occurs.
    """

    name: str
    size: int
    within: tuple[str, ...]
    copies: tuple[int, ...]
    members: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Layout:
    """Groups, and of which of them each tensor is made.

    Args:
        groups: by name; what a group lies within comes before it.
        tensors: name -> a part for each dimension; a tied tensor is there under each of its names.
        pinned: reason -> names of tensors that have an axis pinned for it.
    """

    groups: Mapping[str, Group]
    tensors: Mapping[str, tuple[Part, ...]]
    pinned: Mapping[str, tuple[str, ...]]


def layout_of(solved: Solved, excluded: Iterable[str] = ()) -> Layout:
    """Give the groups of a network.

    Args:
        solved: what the graph says.
        excluded: groups that a proof has found wrong.
    """
    space = solved.space
    tensors = {name: tuple(map(space.find, axes)) for name, axes in solved.tensors.items()}
    members: dict[Atom, list[tuple[str, int]]] = {}
    for name, axes in tensors.items():
        for dim, axis in enumerate(axes):
            for atom in dict.fromkeys(space.atoms(axis)):
                members.setdefault(atom, []).append((name, dim))
    excluded = set(excluded)
    named = {
        atom: f"{found[0][0]}:{found[0][1]}" for atom, found in members.items() if atom.size > 1
    }
    names: dict[Atom, str] = {}
    for atom, name in named.items():
        number = sum(other.partition("#")[0] == name for other in names.values())
        names[atom] = name if number == 0 else f"{name}#{number}"
    free = [a for a in names if space.why_pinned(a) is None and names[a] not in excluded]
    within = _contexts(solved, [*tensors.values(), *solved.values, *space.seen], free)
    groups = {}
    for atom in _in_order(free, within):
        inside = [other for other in within[atom] if other in names]
        groups[names[atom]] = Group(
            names[atom],
            atom.size,
            tuple(names[other] for other in inside),
            tuple(other.size for other in inside),
            tuple(members[atom]),
        )
    reasons: dict[str, list[str]] = {}
    for atom, found in members.items():
        reason = space.why_pinned(atom)
        if names.get(atom) in excluded:
            reason = "the outputs changed when it was reordered: an error of conjoin's rules"
        if reason is not None and atom.size > 1:
            reasons.setdefault(reason, []).extend(tensor for tensor, _ in found)
    parts = {name: tuple(_part(axis, names) for axis in axes) for name, axes in tensors.items()}
    return Layout(
        groups,
        {**parts, **{alias: parts[name] for alias, name in solved.aliases.items()}},
        {reason: tuple(dict.fromkeys(found)) for reason, found in reasons.items()},
    )


def _part(axis: Axis, names: Mapping[Atom, str]) -> Part:
    if isinstance(axis, Atom):
        return Part("atom", names.get(axis), axis.size)
    if isinstance(axis, Product):
        return Part("product", parts=tuple(_part(factor, names) for factor in axis.factors))
    return Part("sum", parts=tuple(_part(segment, names) for segment in axis.segments))


def _contexts(
    solved: Solved, tensors: Sequence[Axes], free: Sequence[Atom]
) -> dict[Atom, list[Atom]]:
    """Find, for each atom, what it always occurs together with: it may move apart for each of it.

    A sum is taken apart: what stands in another segment is not beside it.
    """
    # Of each atom: what has stood beside it in every block, and whether it was slower there.
    beside: dict[Atom, dict[Atom, bool]] = {}
    wanted = set(free)
    for axes in tensors:
        for block in _blocks(tuple(map(solved.space.find, axes))):
            for atom in {atom for atom, _ in block} & wanted:
                others = _beside(block, atom)
                known = beside.get(atom)
                if known is None:
                    beside[atom] = others
                else:
                    beside[atom] = {o: slower for o, slower in known.items() if o in others}
    within: dict[Atom, list[Atom]] = {atom: [] for atom in free}
    for atom in free:
        for other, slower in beside.get(atom, {}).items():
            # Of two that always occur together, the slower one stands outside.
            if slower or atom not in beside.get(other, {}):
                within[atom].append(other)
    # One level only: what lies within another has no groups within it.
    return {atom: [o for o in others if not within.get(o)] for atom, others in within.items()}


Block = Sequence[tuple[Atom, int]]
"""The atoms of a block of a tensor, slowest first, each with the dimension that it is a part of."""


def _beside(block: Block, atom: Atom) -> dict[Atom, bool]:
    """Give what tells copies of an atom apart, at each of its occurrences, and if it is slower.

    That is what stands once in the dimension of that occurrence, or once in the whole block.
    """
    found: dict[Atom, bool] | None = None
    for place, (one, dim) in enumerate(block):
        if one != atom:
            continue
        here = {o: p < place for p, (o, d) in enumerate(block) if d == dim and o != atom}
        everywhere = [o for o, _ in block]
        once = {
            o: p < place
            for p, (o, d) in enumerate(block)
            if d != dim and o != atom and everywhere.count(o) == 1
        }
        double = {o for o in here if list(block).count((o, dim)) > 1}
        others = {o: s for o, s in {**once, **here}.items() if o not in double}
        found = others if found is None else {o: s for o, s in found.items() if o in others}
    return found or {}


def _blocks(axes: Axes) -> Iterator[Block]:
    """Give the atoms of every block of a tensor: one segment of each sum."""
    for number, axis in enumerate(axes):
        choices = _one_level(axis)
        if choices is not None:
            for choice in choices:
                yield from _blocks((*axes[:number], choice, *axes[number + 1 :]))
            return
    yield [(atom, dim) for dim, axis in enumerate(axes) for atom in _atoms(axis)]


def _one_level(axis: Axis) -> list[Axis] | None:
    """Give the choices of the first sum in an axis; None if there is none."""
    if isinstance(axis, Sum):
        return list(axis.segments)
    if isinstance(axis, Product):
        for number, factor in enumerate(axis.factors):
            choices = _one_level(factor)
            if choices is not None:
                before, after = axis.factors[:number], axis.factors[number + 1 :]
                return [Product((*before, choice, *after)) for choice in choices]
    return None


def _atoms(axis: Axis) -> Iterator[Atom]:
    if isinstance(axis, Atom):
        yield axis
    else:
        parts = axis.factors if isinstance(axis, Product) else axis.segments
        for part in parts:
            yield from _atoms(part)


def _in_order(free: Sequence[Atom], within: Mapping[Atom, Sequence[Atom]]) -> list[Atom]:
    """Put what a group lies within before it."""
    done: dict[Atom, None] = {}

    def visit(atom: Atom) -> None:
        for other in within.get(atom, ()):
            if other not in done and other in within:
                visit(other)
        done.setdefault(atom)

    for atom in free:
        visit(atom)
    return list(done)
