"""docs/methods.md says what the table of methods says, of every method and parameter."""

import inspect
import re
from pathlib import Path

import pytest

from conjoin.methods import MERGEKIT_DEFAULTS, METHODS, Method, Need
from conjoin.recipes.parameters import parameter_forms

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
TEXT = PAGE.read_text(encoding="utf-8")


def _cell(text: str) -> str:
    """A bar would end the cell, within code too."""
    return text.replace("|", "\\|")


def _link(paper: str) -> str:
    kind, _, rest = paper.partition(":")
    if kind == "arXiv":
        return f"[{paper}](https://arxiv.org/abs/{rest})"
    if kind == "doi":
        return f"[{paper}](https://doi.org/{rest})"
    return f"[{rest.split('/')[2]}]({paper})" if paper else ""


def _takes(row: Method) -> str:
    """What it gets, in words."""
    said = []
    if row.models is not None:
        said.append("1 model" if row.models == 1 else f"{row.models} models")
    elif row.least > 1:
        said.append(f"{row.least} models or more")
    said += [need.value for need in (Need.BASE, Need.WEIGHTS) if need in row.needs]
    said += [f"{need.value} if there is one" for need in row.optional]
    said += ["seed"] if row.is_random else []
    said += ["`task`"] if row.per_task else []
    return ", ".join(said)


def _merged(row: Method) -> str:
    """How tensors come to it."""
    if not row.elementwise:
        return "whole"
    words = "blocks, after sums" if row.summarize is not None else "blocks"
    if row.whole_with:
        words += f"; whole with `{'`, `'.join(sorted(row.whole_with))}`"
    return words


def table_of_methods() -> str:
    """What stands between the first two marks of the page."""
    lines = ["| method | result | takes | merged in | paper |", "|---|---|---|---|---|"]
    for row in METHODS.values():
        cells = [row.name, f"`{_cell(row.formula)}`", _takes(row), _merged(row), _link(row.paper)]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def table_of_parameters() -> str:
    """What stands between the last two marks."""
    lines = ["| method | parameter | default | may be |", "|---|---|---|---|"]
    for row in METHODS.values():
        forms = parameter_forms(row)
        for name, default in row.defaults.items():
            assert default is not inspect.Parameter.empty, "say in the table what is required"
            also = ", or one per model" if name in row.per_model else ""
            may = _cell(f"{forms[name].scalar.expected}{also}")
            lines.append(f"| {row.name} | `{name}` | `{str(default).lower()}` | {may} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [table_of_methods, table_of_parameters])
def test_the_tables_are_those_of_the_code(table):
    mark = table.__name__.rpartition("_")[2]
    found = re.search(rf"<!-- table: {mark} -->\n(.*?)\n<!-- end -->", TEXT, flags=re.DOTALL)
    assert found, f"{PAGE.name} has no place for the table of {mark}"
    expected = table()
    # The whole table in the message: it can be copied from there.
    assert found[1] == expected, f"the table of {mark} in {PAGE.name} should be:\n{expected}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described_outside_of_the_tables(name):
    prose = re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", "", TEXT, flags=re.DOTALL)
    assert re.search(rf"^- \*\*.*\b{name}\b.*\*\*", prose, flags=re.MULTILINE)


def _section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_variants_of_mergekit_are_those_of_its_defaults():
    """Every parameter that mergekit's recipes set otherwise stands in the table of differences."""
    section = _section("Where papers and mergekit differ")
    said = {
        (method, parameter, value)
        for line in re.findall(r"^\| [a-z_, ]+ \| `.*$", section, flags=re.MULTILINE)
        for methods, parameter, _, value in [re.findall(r"[^|`]+", line.replace(" | ", "|"))[:4]]
        for method in methods.strip().split(", ")
    }
    expected = {
        (method, parameter, str(value).lower())
        for method, settings in MERGEKIT_DEFAULTS.items()
        for parameter, value in settings.items()
        if value != METHODS[method].defaults[parameter]
    }
    assert said == expected


def test_what_was_measured_of_rounding_is_of_methods_in_their_order():
    """A new method need not be measured at once; one that is gone or renamed does not stay."""
    row = r"^\| (\w+) \| (?:in blocks|whole) \| [\d.]+ % \|"
    rows = re.findall(row, _section("Rounding"), flags=re.MULTILINE)
    assert len(rows) > 30
    assert rows == [name for name in METHODS if name in rows]
