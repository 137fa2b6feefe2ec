"""A rule that is wrong is noticed: each line that equates or pins is left out in turn.

Either a group that is written by hand is then missing, or the proof finds a guilty one.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmetry_toys import groups_of, written

from conjoin.symmetry import rules, solving
from conjoin.symmetry.axes import ONE, Axes, Space
from conjoin.symmetry.groups import layout_of
from conjoin.symmetry.rules import RULES
from conjoin.symmetry.values import Call, Value

FOLDER = Path(inspect.getfile(rules)).parent


def _first(self, axes):
    return next(iter(axes), ONE)


WRONG = {
    "equate": lambda self, first, second: None,
    "equate_all": _first,
    "pin": lambda self, axis, reason: None,
    "pinned_atom": lambda self, size, reason: self.atom(size),
    "together": lambda self, *axes: None,
}
"""What a rule says about axes, and what it says when it is left out."""


GUARDS = {
    ("view", "call.space.pin(out[sliced_dim], POSITION)"): "all uses of such a view select from it",
    ("unbind", "call.space.pin(axes[dim], POSITION)"): "torch.export makes select of unbind",
}
"""Function and line that change nothing in what torch 2.13 exports, with the reason."""


UNUSED = {"unbind"}
"""Rules that nothing reaches in what torch 2.13 exports."""


def _lines() -> Iterator[tuple[str, int]]:
    for path in sorted(FOLDER.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                says = isinstance(node, ast.Call) and getattr(node.func, "attr", None) in WRONG
                if says and (function.name, ast.unparse(node)) not in GUARDS:
                    yield path.name, node.lineno


LINES = sorted(set(_lines()))


def _leave_out(monkeypatch, file: str, line: int) -> None:
    for name, wrong in WRONG.items():
        right = getattr(Space, name)

        def said(self, *args, right=right, wrong=wrong):
            caller = sys._getframe(1)
            left_out = Path(caller.f_code.co_filename).name == file and caller.f_lineno == line
            return (wrong if left_out else right)(self, *args)

        monkeypatch.setattr(Space, name, said)


def _is_noticed(traced) -> bool:
    """Whether groups differ from those by hand; if not, whether the proof finds an error."""
    for one in traced.values():
        layout = layout_of(one.solved())
        for name, case in one.cases.items():
            if groups_of(layout.groups.values(), f"branches.{name}.") != written(case.groups):
                return True
    return False


def test_nothing_is_noticed_without_a_mutation(traced):
    assert not _is_noticed(traced)


@pytest.mark.parametrize(("file", "line"), LINES)
def test_each_line_of_a_rule_is_needed(file, line, traced, monkeypatch):
    _leave_out(monkeypatch, file, line)
    assert _is_noticed(traced)


def _free(call: Call) -> list[Axes]:
    """Say that nothing has to do with anything."""
    return [tuple(call.space.atom(size) for size in shape) for shape in call.shapes]


@pytest.mark.parametrize("rule", sorted({rule.__name__ for rule in RULES.values()} - UNUSED))
def test_each_rule_is_needed(rule, traced, monkeypatch):
    for name, known in list(RULES.items()):
        if known.__name__ == rule:
            monkeypatch.setitem(RULES, name, _free)
    assert _is_noticed(traced)


def test_operations_that_are_pointwise_by_their_tag_need_their_rule(traced, monkeypatch):
    monkeypatch.setattr(solving, "elementwise", _free)
    assert _is_noticed(traced)


def test_every_rule_is_used(traced):
    """A rule that no case reaches could say anything."""
    names = {
        f"{node.target.namespace}.{node.target._opname}"
        for one in traced.values()
        for node in one.trace.nodes
        if node.op == "call_function" and hasattr(node.target, "_opname")
    }
    unused = {rule.__name__ for rule in set(RULES.values())} - {
        RULES[name].__name__ for name in names if name in RULES
    }
    assert unused == UNUSED


def test_unbind_by_hand():
    """`torch.export` makes select of it, so that no case has it."""
    space = Space()
    rows, columns = space.atom(3), space.atom(5)
    call = Call("aten.unbind", [Value((rows, columns), "learned"), 0], {}, ((5,),) * 3, space)
    assert RULES["aten.unbind"](call) == [(columns,)] * 3
    assert [space.why_pinned(axis) is None for axis in (rows, columns)] == [False, True]

    slices = ((columns,), (space.atom(5),), (space.atom(5),))
    call = Call("aten.unbind", [Value((rows, columns), "learned", slices, 0)], {}, (), space)
    assert [one.axes for one in RULES["aten.unbind"](call)] == list(slices)
