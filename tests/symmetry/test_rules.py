"""Every rule finds the groups that are written by hand, and running them proves it."""

import importlib

import pytest
from symmetry_toys import FILES, groups_of, written

from conjoin.symmetry.groups import layout_of


@pytest.fixture(scope="session")
def layouts(traced):
    return {file: layout_of(traced[file].solved()) for file in FILES}


CASES = [(file, name) for file in FILES for name in importlib.import_module(f"cases_{file}").CASES]


@pytest.mark.parametrize(("file", "name"), CASES)
def test_groups_by_hand(file, name, traced, layouts):
    found = groups_of(layouts[file].groups.values(), f"branches.{name}.")
    expected = written(traced[file].cases[name].groups)
    assert found == expected


@pytest.mark.parametrize("file", FILES)
def test_reordering_everything_changes_nothing(file, traced, layouts):
    proof = traced[file].prove(layouts[file])
    assert proof.guilty == ()
    assert proof.error < 1e-9


@pytest.mark.parametrize("file", FILES)
def test_every_operation_is_known(file, traced):
    assert traced[file].solved().unknown == {}
